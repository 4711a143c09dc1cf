"""A row added to all rows of a matrix, or multiplied with them, whose gradient is summed in float32.

Derived by MLX, it would be summed in the matrix's type, on Metal in bfloat16 over all tokens.
"""

import mlx.core as mx


def added(x: mx.array, row: mx.array) -> mx.array:
    """Return x + row, (..., n)."""
    return _added(x, row)  # type: ignore[return-value]


def scaled(x: mx.array, row: mx.array) -> mx.array:
    """Return x * row, (..., n)."""
    return _scaled(x, row)  # type: ignore[return-value]


@mx.custom_function
def _added(x: mx.array, row: mx.array) -> mx.array:
    return x + row.astype(x.dtype)


@_added.vjp
def _(primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    return gradient, _summed(gradient, primals[1])


@mx.custom_function
def _scaled(x: mx.array, row: mx.array) -> mx.array:
    return x * row.astype(x.dtype)


@_scaled.vjp
def _(primals: tuple[mx.array, ...], gradient: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    x, row = primals
    return gradient * row.astype(gradient.dtype), _summed(gradient.astype(mx.float32) * x, row)


def _summed(products: mx.array, row: mx.array) -> mx.array:
    return products.astype(mx.float32).reshape(-1, row.size).sum(0).astype(row.dtype)
