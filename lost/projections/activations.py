"""Activations inside projections, in numpy."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def silu(x: Array) -> Array:
    """x * sigmoid(x), without overflow for large negative x."""
    return x * (0.5 + 0.5 * np.tanh(0.5 * x))


def gelu(x: Array) -> Array:
    """x * Phi(x), exact (Hendrycks and Gimpel, arXiv 1606.08415)."""
    from scipy.special import erf  # slow to import, and few models have a GELU

    return x * (0.5 + 0.5 * erf(x / np.sqrt(2.0)))


def relu2(x: Array) -> Array:
    """max(x, 0)^2 (So et al., arXiv 2109.08668)."""
    return np.square(np.maximum(x, 0.0))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu": gelu,
    "relu2": relu2,
    "none": lambda x: x,
}
