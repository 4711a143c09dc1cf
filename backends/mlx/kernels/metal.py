"""[gamma silu(hidden) ; (1 - gamma) x[channels]] and its gradients, each by one kernel on Metal in place of several.

Never run on Metal: no Mac was there. So `works` first compares the kernels with the plain form, and where they can't be
compiled or differ, the plain form it is. Their bodies are C++ but for a few names, and as such they are tested.
"""

from functools import cache
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Inputs may be views of a wider product: they are read by their strides.
FORWARD = """
    uint place = thread_position_in_grid.x;
    uint row = place / WIDTH;
    uint column = place % WIDTH;
    if (column < RANK) {
        float value = float(hidden[elem_to_loc(row * RANK + column, hidden_shape, hidden_strides, hidden_ndim)]);
        inner[place] = T(gamma * value / (1.0f + metal::exp(-value)));
    } else {
        uint channel = uint(channels[column - RANK]);
        inner[place] = T((1.0f - gamma) * float(x[elem_to_loc(row * INPUT + channel, x_shape, x_strides, x_ndim)]));
    }
"""
# Channels ascend, so that each of x finds by bisection whether it is kept: no two threads write to one place.
BACKWARD = """
    uint place = thread_position_in_grid.x;
    uint row = place / (RANK + INPUT);
    uint column = place % (RANK + INPUT);
    if (column < RANK) {
        float value = float(hidden[elem_to_loc(row * RANK + column, hidden_shape, hidden_strides, hidden_ndim)]);
        float gate = 1.0f / (1.0f + metal::exp(-value));
        float slope = gamma * gate * (1.0f + value * (1.0f - gate));
        uint from = row * WIDTH + column;
        float outer = float(gradient[elem_to_loc(from, gradient_shape, gradient_strides, gradient_ndim)]);
        hidden_gradient[row * RANK + column] = T(slope * outer);
    } else {
        uint channel = column - RANK;
        uint low = 0;
        uint high = WIDTH - RANK;
        while (low < high) {
            uint middle = (low + high) / 2;
            if (uint(channels[middle]) < channel) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        float outer = 0.0f;
        if (low < WIDTH - RANK && uint(channels[low]) == channel) {
            uint from = row * WIDTH + RANK + low;
            outer = float(gradient[elem_to_loc(from, gradient_shape, gradient_strides, gradient_ndim)]);
        }
        x_gradient[row * INPUT + channel] = T((1.0f - gamma) * outer);
    }
"""
_GROUP = 256  # threads


def mixed(hidden: mx.array, x: mx.array, channels: mx.array, gamma: float) -> mx.array:
    """Return [gamma silu(hidden) ; (1 - gamma) x[channels]], (..., r + k).

    Args:
        hidden: (..., r), the bottleneck.
        x: (..., in), of the same type.
        channels: (k,) int32, ascending.
        gamma: a constant.
    """
    return _mixed(hidden, x, channels, mx.array(gamma))  # type: ignore[return-value]


@cache
def works(dtype: mx.Dtype) -> bool:
    """Return whether the kernels are there, and agree with the plain form on a few numbers of this type."""
    if not _here():
        return False
    sizes = {"hidden": (2, 3, 5), "x": (2, 3, 12), "outer": (2, 3, 8)}
    hidden, x, outer = (
        mx.random.normal(size, key=mx.random.key(number)).astype(dtype) for number, size in enumerate(sizes.values())
    )
    channels = mx.array([1, 7, 11], mx.int32)

    def plain(hidden: mx.array, x: mx.array) -> mx.array:
        return mx.concatenate([0.7 * nn.silu(hidden), 0.3 * x[..., channels]], axis=-1)

    def results(way: Any) -> list[mx.array]:
        return [way(hidden, x), *mx.grad(lambda *given: (way(*given) * outer).sum(), argnums=(0, 1))(hidden, x)]

    try:
        pairs = zip(results(lambda hidden, x: mixed(hidden, x, channels, 0.7)), results(plain), strict=True)
        far = 1e-5 if dtype == mx.float32 else 2e-2
        return all(bool(mx.allclose(_wide(a), _wide(b), rtol=far, atol=far)) for a, b in pairs)
    except (RuntimeError, ValueError):  # whatever a compiler or a driver makes of them
        return False


def _here() -> bool:
    return mx.metal.is_available() and mx.default_device().type.name != "cpu"


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


@mx.custom_function
def _mixed(hidden: mx.array, x: mx.array, channels: mx.array, gamma: mx.array) -> mx.array:
    shape = (*hidden.shape[:-1], hidden.shape[-1] + channels.size)
    return _launch("forward", [hidden, x, channels, gamma], [shape])[0]


@_mixed.vjp
def _gradients(
    primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    hidden, x, channels, gamma = primals
    found = _launch("backward", [hidden, x, channels, gamma, gradient], [hidden.shape, x.shape])
    return found[0], found[1], mx.zeros_like(channels), mx.zeros_like(gamma)


def _launch(name: str, inputs: list[mx.array], shapes: list[tuple[int, ...]]) -> list[mx.array]:
    """Start a thread for each entry of the results, and return these."""
    hidden, x, channels, *_ = inputs
    rank, threads = hidden.shape[-1], sum(map(prod, shapes))
    sizes = {"RANK": rank, "INPUT": x.shape[-1], "WIDTH": rank + channels.size}
    return _kernel(name)(
        inputs=inputs,
        template=[("T", hidden.dtype), *sizes.items()],
        grid=(threads, 1, 1),
        threadgroup=(min(_GROUP, threads), 1, 1),
        output_shapes=shapes,
        output_dtypes=[hidden.dtype] * len(shapes),
    )


@cache
def _kernel(name: str) -> Any:
    inputs, outputs, body = ["hidden", "x", "channels", "gamma"], ["inner"], FORWARD
    if name == "backward":
        inputs, outputs, body = [*inputs, "gradient"], ["hidden_gradient", "x_gradient"], BACKWARD
    return mx.fast.metal_kernel(f"lost_mixed_{name}", inputs, outputs, body, ensure_row_contiguous=False)
