"""Gathers with gradients in which no two threads add to one place: on Metal, the order of such sums changes."""

import mlx.core as mx


def kept(x: mx.array, channels: mx.array) -> mx.array:
    """Return x[..., channels], the fastest of three ways on a CPU (benchmarks/mlx_choices.py); unmeasured on Metal.

    Args:
        x: (..., in).
        channels: (k,) int32, each of them once.
    """
    return _kept(x, channels)  # type: ignore[return-value]


def embedded(weight: mx.array, tokens: mx.array) -> mx.array:
    """Return the rows of weight (vocab, h) at tokens (...), (..., h)."""
    return _embedded(weight, tokens)  # type: ignore[return-value]


@mx.custom_function
def _kept(x: mx.array, channels: mx.array) -> mx.array:
    return mx.take_along_axis(x, _everywhere(x, channels), axis=-1)


@_kept.vjp
def _kept_gradient(primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    """Put the gradient in the channels' places: MLX would add it there, not knowing that each is met once."""
    x, channels = primals
    return mx.put_along_axis(mx.zeros_like(x), _everywhere(x, channels), gradient, axis=-1), mx.zeros_like(channels)


def _everywhere(x: mx.array, channels: mx.array) -> mx.array:
    return mx.broadcast_to(channels, (*x.shape[:-1], channels.size))


@mx.custom_function
def _embedded(weight: mx.array, tokens: mx.array) -> mx.array:
    return weight[tokens]


@_embedded.vjp
def _embedded_gradient(
    primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    """Add up rows on the CPU, one after the other; memory is shared with Metal."""
    weight, tokens = primals
    with mx.stream(mx.cpu):
        (summed,) = mx.vjp(lambda weight: weight[tokens], [weight], [gradient])[1]
    return summed, mx.zeros_like(tokens)
