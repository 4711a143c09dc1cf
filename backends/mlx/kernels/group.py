"""LOST layers that read the same, as few kernels of Metal, with a backward pass of their own.

A layer's gradient of its input is added up by the product that ends it; `up`s of one shape are one batched product.
"""

from collections.abc import Sequence
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from lost.backends.mlx.kernels import metal
from lost.backends.mlx.kernels.convolution import short_conv
from lost.backends.mlx.kernels.gated import product


class Reads(NamedTuple):
    """What n layers [gamma act(down x) ; (1 - gamma) x[channels]] read.

    Attributes:
        x: (b, s, in), the type that products are computed in; that of `down` and of `up`s too.
        down: (n r, in), a layer's after another's.
        taps: (n, e r), of bottlenecks that look back at e tokens, those of the token before first; or as `metal` takes
            and returns them, with a gradient in parts.
        channels: of each layer, (k,) int32, ascending.
        gamma: a constant.
        activated: whether act is SiLU, or nothing.
    """

    x: mx.array
    down: mx.array
    taps: mx.array | None
    channels: Sequence[mx.array]
    gamma: float
    activated: bool

    @property
    def first(self) -> list[mx.array]:
        """The arguments of a function, before the `up`s."""
        return [self.x, self.down, mx.array(self.gamma), *self.channels]

    @property
    def last(self) -> list[mx.array]:
        """Those after them."""
        taps = _in_parts(self.taps, self.x)
        return [] if taps is None else [taps]


def outputs(reads: Reads, ups: Sequence[mx.array], together: mx.array | None = None) -> list[mx.array]:
    """Return up [gamma act(down x) ; (1 - gamma) x[channels]] of n layers, each (b, s, out).

    Args:
        reads: what they read.
        ups: of each layer, (out, r + k).
        together: (n, out, r + k), the same where they have one shape; without a gradient.
    """
    extra = reads.last + ([] if together is None else [together])
    function = _function(len(ups), reads.activated, reads.taps is not None, together is not None)
    return list(function(*reads.first, *ups, *extra)[: len(ups)])


def stacked(reads: Reads, ups: mx.array) -> mx.array:
    """Return the results of n layers in one array, (n, b, s, out), whose gradient is one too.

    Args:
        reads: what they read.
        ups: (n, out, r + k).
    """
    function = _stacked(len(reads.channels), reads.activated, reads.taps is not None)
    return function(*reads.first, ups, *reads.last)[0]


def _in_parts(taps: mx.array | None, x: mx.array) -> mx.array | None:
    if taps is None or taps.ndim == 3:
        return taps
    return mx.broadcast_to(taps, (metal.tap_parts(prod(x.shape[:-1])), *taps.shape))


def works(dtype: mx.Dtype) -> bool:
    """Return whether the kernels are there, and agree with the plain form on a few numbers of this type."""
    return metal.here() and _agree(dtype)


@cache
def _agree(dtype: mx.Dtype) -> bool:
    try:
        return all(_agrees(dtype, earlier, activated) for earlier in (0, 2) for activated in (False, True))
    except (RuntimeError, ValueError):  # whatever a compiler or a driver makes of them
        return False


def _agrees(dtype: mx.Dtype, earlier: int, activated: bool) -> bool:
    rank, inputs, layers = 5, 12, 2
    channels = [mx.array(each, mx.int32) for each in ([1, 7, 11], [0, 7, 10])]
    sizes = [(2, 19, inputs), (layers * rank, inputs), (layers, earlier * rank), *[(7, rank + 3)] * layers]
    x, down, taps, *ups = (mx.random.normal(size, key=mx.random.key(at)) for at, size in enumerate(sizes))
    given = [x.astype(dtype), down.astype(dtype), taps, *(each.astype(dtype) for each in ups)]
    outer = mx.random.normal((layers, 2, 19, 7), key=mx.random.key(9))

    def ours(x: mx.array, down: mx.array, taps: mx.array, *ups: mx.array) -> list[mx.array]:
        return outputs(Reads(x, down, taps if earlier else None, channels, 0.7, activated), ups, mx.stack(list(ups)))

    def ours_stacked(x: mx.array, down: mx.array, taps: mx.array, *ups: mx.array) -> list[mx.array]:
        both = stacked(Reads(x, down, taps if earlier else None, channels, 0.7, activated), mx.stack(list(ups)))
        return [product(both, activated=earlier > 0)] * layers

    def plain_product(*given: mx.array) -> list[mx.array]:
        gate, passed = plain(*given)
        return [(nn.silu(gate) if earlier else gate) * passed] * layers

    def plain(x: mx.array, down: mx.array, taps: mx.array, *ups: mx.array) -> list[mx.array]:
        found = []
        for hidden, tap, kept, up in zip(mx.split(x @ down.T, layers, axis=-1), taps, channels, ups, strict=True):
            if earlier:
                hidden = mx.pad(hidden, [(0, 0), (earlier, 0), (0, 0)])
                hidden = short_conv(hidden, tap.reshape(earlier, rank)).astype(dtype)
            hidden = nn.silu(hidden) if activated else hidden
            found.append(mx.concatenate([0.7 * hidden, 0.3 * x[..., kept]], axis=-1) @ up.T)
        return found

    def results(way: Any) -> list[mx.array]:
        def loss(*given: mx.array) -> mx.array:
            return sum(((y * by).sum() for y, by in zip(way(*given), outer, strict=True)), mx.array(0.0))

        return [*way(*given), *mx.grad(loss, argnums=[at for at, each in enumerate(given) if each.size])(*given)]

    far = 1e-3 if dtype == mx.float32 else 3e-2  # products are in TF32 on some Macs
    return all(
        bool(mx.linalg.norm(_wide(a) - _wide(b)) <= far * mx.linalg.norm(_wide(b)))
        for way, other in ((ours, plain), (ours_stacked, plain_product))
        for a, b in zip(results(way), results(other), strict=True)
    )


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


@cache
def _function(layers: int, activated: bool, looks_back: bool, together: bool) -> Any:
    function = mx.custom_function(partial(_forward, layers, activated, looks_back, together))
    function.vjp(partial(_gradients, layers, activated, looks_back))
    return function


def _forward(layers: int, activated: bool, looks_back: bool, together: bool, *given: mx.array) -> list[mx.array]:
    """Return the results, and what the backward pass reads."""
    x, down, gamma, *rest = given
    channels, ups, extra = rest[:layers], rest[layers : 2 * layers], rest[2 * layers :]
    hidden = x @ down.T
    inner = metal.forward(hidden, x, channels, gamma, activated, extra[0] if looks_back else None)
    if together:
        tokens = x.shape[:-1]
        y = inner.flatten(1, -2) @ extra[-1].swapaxes(-1, -2)
        results = [each.reshape(*tokens, -1) for each in mx.split(y, layers)]
    else:
        results = [each.squeeze(0) @ up.T for each, up in zip(mx.split(inner, layers), ups, strict=True)]
    return [*results, hidden, inner]


def _gradients(
    layers: int,
    activated: bool,
    looks_back: bool,
    primals: Sequence[mx.array],
    cotangents: Sequence[mx.array],
    outputs: Sequence[mx.array],
) -> list[mx.array]:
    x, down, gamma, *rest = primals
    channels, ups, extra = rest[:layers], rest[layers : 2 * layers], rest[2 * layers :]
    hidden, inner = outputs[layers:]
    outer = cotangents[:layers]
    taps = extra[0] if looks_back else None
    parts = [each @ up for each, up in zip(outer, ups, strict=True)]
    found = metal.backward(hidden, x, channels, gamma, activated, taps, parts)
    return [
        *_read_by_all(x, down, gamma, channels, *found[:2]),
        *(each.flatten(0, -2).T @ of.flatten(0, -2) for each, of in zip(outer, mx.split(inner, layers), strict=True)),
        *found[2:],
        *map(mx.zeros_like, extra[looks_back:]),
    ]


def _read_by_all(
    x: mx.array,
    down: mx.array,
    gamma: mx.array,
    channels: Sequence[mx.array],
    hidden_gradient: mx.array,
    x_gradient: mx.array,
) -> list[mx.array]:
    """Return the gradients of x and down, and none for gamma and channels; x's is added up by the product."""
    return [
        mx.addmm(x_gradient, hidden_gradient, down),
        hidden_gradient.flatten(0, -2).T @ x.flatten(0, -2),
        mx.zeros_like(gamma),
        *map(mx.zeros_like, channels),
    ]


@cache
def _stacked(layers: int, activated: bool, looks_back: bool) -> Any:
    function = mx.custom_function(partial(_stacked_forward, layers, activated, looks_back))
    function.vjp(partial(_stacked_gradients, layers, activated, looks_back))
    return function


def _stacked_forward(layers: int, activated: bool, looks_back: bool, *given: mx.array) -> list[mx.array]:
    x, down, gamma, *rest = given
    channels, ups, taps = rest[:layers], rest[layers], rest[-1] if looks_back else None
    hidden = x @ down.T
    inner = metal.forward(hidden, x, channels, gamma, activated, taps)
    y = inner.flatten(1, -2) @ ups.swapaxes(-1, -2)
    return [y.reshape(*inner.shape[:-1], -1), hidden, inner]


def _stacked_gradients(
    layers: int,
    activated: bool,
    looks_back: bool,
    primals: Sequence[mx.array],
    cotangents: Sequence[mx.array],
    outputs: Sequence[mx.array],
) -> list[mx.array]:
    x, down, gamma, *rest = primals
    channels, ups, taps = rest[:layers], rest[layers], rest[-1] if looks_back else None
    _, hidden, inner = outputs
    outer = cotangents[0].flatten(1, -2)
    parts = [each.reshape(inner.shape[1:]) for each in mx.split(outer @ ups, layers)]
    found = metal.backward(hidden, x, channels, gamma, activated, taps, parts)
    return [
        *_read_by_all(x, down, gamma, channels, *found[:2]),
        outer.swapaxes(-1, -2) @ inner.flatten(1, -2),
        *found[2:],
    ]
