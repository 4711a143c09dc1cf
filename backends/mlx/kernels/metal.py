"""What is between the products of LOST layers that read the same, and its gradients: one kernel of Metal each way.

For each layer [gamma act(hidden) ; (1 - gamma) x[channels]], where hidden may look back at earlier tokens, and act is
SiLU or nothing. Never run on Metal: no Mac was there. So `works` (of `group`) first compares with the plain form, and
where the kernels can't be compiled or differ, the plain form it is. Their bodies are C++ but for a few names: so they
are tested.
"""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import mlx.core as mx

# Of a bottleneck's feature: what the activation reads.
_VALUE = """
        float value = float(hidden[row * (LAYERS * RANK) + feature]);
        for (uint back = 1; back <= EARLIER && back <= row % length; ++back) {
            value += TAP * float(hidden[(row - back) * (LAYERS * RANK) + feature]);
        }
"""
_FORWARD = """
    uint length = hidden_shape[1];
    uint rows = hidden_shape[0] * length;
    uint place = thread_position_in_grid.x;
    uint column = place % WIDTH;
    uint row = place / WIDTH % rows;
    uint layer = place / WIDTH / rows;
    if (column < RANK) {
        uint feature = layer * RANK + column;
VALUE
        inner[place] = T(gamma * (ACTIVATED ? value / (1.0f + metal::exp(-value)) : value));
    } else {
        uint from = column - RANK;
        uint channel = uint(CHANNEL);
        inner[place] = T((1.0f - gamma) * float(x[row * INPUT + channel]));
    }
"""
# The first threads take a feature each, for a run of tokens, so that a tap's gradient is added up in one place; the
# others an entry of x each. Channels ascend: each of x finds by bisection whether it is kept.
_BACKWARD = """
    uint length = hidden_shape[1];
    uint rows = hidden_shape[0] * length;
    uint place = thread_position_in_grid.x;
    uint runs = (rows + RUN - 1) / RUN;
    if (place < runs * (LAYERS * RANK)) {
        uint feature = place % (LAYERS * RANK);
        uint run = place / (LAYERS * RANK);
        uint layer = feature / RANK;
        uint column = feature % RANK;
        float ahead[EARLIER + 1] = {};
        float sums[EARLIER + 1] = {};
        for (uint step = 0; step < RUN + EARLIER; ++step) {
            uint row = run * RUN + step;
            float slope = 0.0f;
            if (row < rows) {
VALUE
                float gate = 1.0f / (1.0f + metal::exp(-value));
                slope = gamma * (ACTIVATED ? gate * (1.0f + value * (1.0f - gate)) : 1.0f) * float(OUTER);
                for (uint back = 1; step < RUN && back <= EARLIER && back <= row % length; ++back) {
                    sums[back] += slope * float(hidden[(row - back) * (LAYERS * RANK) + feature]);
                }
            }
            for (uint next = 0; next < EARLIER; ++next) {
                ahead[next] = ahead[next + 1];
            }
            ahead[EARLIER] = slope;
            if (step >= EARLIER && row - EARLIER < rows) {
                row -= EARLIER;
                float total = ahead[0];
                for (uint back = 1; back <= EARLIER && row % length + back < length; ++back) {
                    total += TAP * ahead[back];
                }
                hidden_gradient[row * (LAYERS * RANK) + feature] = T(total);
            }
        }
TAPS
    } else {
        place -= runs * (LAYERS * RANK);
        uint row = place / INPUT;
        uint channel = place % INPUT;
        float total = 0.0f;
KEPT
        x_gradient[place] = T((1.0f - gamma) * total);
    }
"""
_TAP = "float(taps[(layer * EARLIER + back - 1) * RANK + column])"
_TAPS = """
        for (uint back = 1; back <= EARLIER; ++back) {
            taps_gradient[((run * LAYERS + layer) * EARLIER + back - 1) * RANK + column] = sums[back];
        }
"""
_KEPT = """
        {
            uint low = 0;
            uint high = WIDTH - RANK;
            while (low < high) {
                uint middle = (low + high) / 2;
                if (uint(channelsNUMBER[middle]) < channel) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            if (low < WIDTH - RANK && uint(channelsNUMBER[low]) == channel) {
                total += float(gradientNUMBER[row * WIDTH + RANK + low]);
            }
        }
"""
_GROUP = 256  # threads
_PARTS = 64  # a tap's gradient has at most: what is kept of it until an update


def tokens_of_a_thread(tokens: int) -> int:
    """Return how many of them a thread of the backward pass takes, where it looks back."""
    return max(16, -(-tokens // _PARTS))


def tap_parts(tokens: int) -> int:
    """Return in how many parts the gradient of a tap comes."""
    return -(-tokens // tokens_of_a_thread(tokens))


def forward(
    hidden: mx.array,
    x: mx.array,
    channels: Sequence[mx.array],
    gamma: mx.array,
    activated: bool,
    taps: mx.array | None,
) -> mx.array:
    """Return [gamma act(hidden) ; (1 - gamma) x[channels]] of n layers, (n, b, s, r + k).

    Args:
        hidden: (b, s, n r), the bottlenecks, a layer's after another's.
        x: (b, s, in), of the same type.
        channels: of each layer, (k,) int32, ascending.
        gamma: a scalar.
        activated: whether act is SiLU, or nothing.
        taps: (p, n, e r), those of the token before first, p = `tap_parts` times the same; none where nothing looks
            back.
    """
    width = hidden.shape[-1] // len(channels) + channels[0].size
    shape = (len(channels), *hidden.shape[:-1], width)
    return _launch("forward", hidden, x, channels, gamma, activated, taps, [], [(shape, hidden.dtype)], prod(shape))[0]


def backward(
    hidden: mx.array,
    x: mx.array,
    channels: Sequence[mx.array],
    gamma: mx.array,
    activated: bool,
    taps: mx.array | None,
    gradients: Sequence[mx.array],
) -> list[mx.array]:
    """Return the gradients of hidden and x, and of the taps, float32, which add up to that of each.

    Args:
        hidden: as in `forward`.
        x: as in `forward`.
        channels: as in `forward`.
        gamma: as in `forward`.
        activated: as in `forward`.
        taps: as in `forward`.
        gradients: of each layer's result, (b, s, r + k).
    """
    tokens = prod(hidden.shape[:-1])
    runs = tokens if taps is None else tap_parts(tokens)
    results = [(hidden.shape, hidden.dtype), (x.shape, x.dtype)]
    results += [] if taps is None else [(taps.shape, mx.float32)]
    threads = runs * hidden.shape[-1] + x.size
    return _launch("backward", hidden, x, channels, gamma, activated, taps, gradients, results, threads)


def here() -> bool:
    """Return whether arrays are computed by Metal."""
    return mx.metal.is_available() and mx.default_device().type.name != "cpu"


def _launch(
    name: str,
    hidden: mx.array,
    x: mx.array,
    channels: Sequence[mx.array],
    gamma: mx.array,
    activated: bool,
    taps: mx.array | None,
    gradients: Sequence[mx.array],
    results: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    threads: int,
) -> list[mx.array]:
    layers, extra = len(channels), [] if taps is None else [taps[:1].squeeze(0)]
    rank, earlier = hidden.shape[-1] // layers, 0 if taps is None else extra[0].size // hidden.shape[-1]
    sizes = {
        "RANK": rank, "INPUT": x.shape[-1], "WIDTH": rank + channels[0].size, "LAYERS": layers, "EARLIER": earlier,
        "RUN": 1 if taps is None else tokens_of_a_thread(prod(hidden.shape[:-1])), "ACTIVATED": int(activated),
    }  # fmt: skip
    return _kernel(name, layers, taps is not None)(
        inputs=[hidden, *([x] if name == "forward" else []), gamma, *channels, *extra, *gradients],
        template=[("T", hidden.dtype), *sizes.items()],
        grid=(threads, 1, 1),
        threadgroup=(min(_GROUP, threads), 1, 1),
        output_shapes=[shape for shape, _ in results],
        output_dtypes=[dtype for _, dtype in results],
    )


def described(name: str, layers: int, looks_back: bool) -> tuple[list[str], list[str], str]:
    """Return the names of a kernel's inputs and outputs, and its body."""
    channels, taps = [f"channels{number}" for number in range(layers)], ["taps"] if looks_back else []
    value = _VALUE if looks_back else _VALUE[: _VALUE.index("        for")]
    if name == "forward":
        body = _FORWARD.replace("VALUE", value).replace("CHANNEL", _chosen([f"{each}[from]" for each in channels]))
        return ["hidden", "x", "gamma", *channels, *taps], ["inner"], body.replace("TAP", _TAP)
    gradients = [f"gradient{number}" for number in range(layers)]
    body = _BACKWARD.replace("VALUE", value).replace("TAPS", _TAPS if looks_back else "")
    body = body.replace("OUTER", _chosen([f"{each}[row * WIDTH + column]" for each in gradients]))
    body = body.replace("KEPT", "".join(_KEPT.replace("NUMBER", str(number)) for number in range(layers)))
    outputs = ["hidden_gradient", "x_gradient", *(["taps_gradient"] if looks_back else [])]
    return ["hidden", "gamma", *channels, *taps, *gradients], outputs, body.replace("TAP", _TAP if looks_back else "0")


def _chosen(values: Sequence[str]) -> str:
    """Return the C++ for the value of a thread's layer."""
    *others, last = values
    return "".join(f"layer == {number} ? {value} : " for number, value in enumerate(others)) + last


@cache
def _kernel(name: str, layers: int, looks_back: bool) -> Any:
    inputs, outputs, body = described(name, layers, looks_back)
    return mx.fast.metal_kernel(f"lost_{name}_{layers}_{'back' if looks_back else 'alone'}", inputs, outputs, body)
