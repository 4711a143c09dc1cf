"""The short causal convolution of bottlenecks, a filter for each feature, with a backward pass of few operations.

Derived by MLX, each tap's slice would have a gradient that is padded and added on its own.
"""

import mlx.core as mx


def short_conv(joined: mx.array, taps: mx.array) -> mx.array:
    """Return y[t] = x[t] + sum over k of taps[k - 1] x[t - k], (b, s, r).

    Args:
        joined: n earlier tokens and s of them, (b, n + s, r).
        taps: (n, r), those of the token before first.
    """
    return _filtered(joined, taps)  # type: ignore[return-value]


@mx.custom_function
def _filtered(joined: mx.array, taps: mx.array) -> mx.array:
    count = len(taps)
    y = joined[:, count:]
    for number in range(1, count + 1):
        y = y + taps[number - 1 : number] * joined[:, count - number : joined.shape[1] - number]
    return y


@_filtered.vjp
def _gradients(primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    """Filter the gradient the other way round; a tap's is the sum of products with what it met."""
    joined, taps = primals
    count, (batch, length, width) = len(taps), gradient.shape
    ahead = mx.pad(gradient, [(0, 0), (count, count), (0, 0)])  # of joined[t], that of y[t - count] is at ahead[t]
    back = ahead[:, : length + count]
    for number in range(1, count + 1):
        back = back + taps[number - 1 : number] * ahead[:, number : length + count + number]
    strides = (joined.shape[1] * width, width, width, 1)
    windows = mx.as_strided(joined, (batch, length, count, width), strides)  # the last tap's first: one product for all
    products = gradient[:, :, None].astype(mx.float32) * windows  # Metal sums bfloat16 in bfloat16
    return back, products.sum((0, 1))[::-1].astype(taps.dtype)
