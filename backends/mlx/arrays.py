"""Conversion between numpy arrays, which cross the seam to the core, and MLX arrays; bfloat16 bit by bit."""

from collections.abc import Sequence
from itertools import accumulate

import ml_dtypes
import mlx.core as mx
import numpy as np

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}


def to_mlx(array: np.ndarray) -> mx.array:
    """Return a copy as an MLX array."""
    if array.dtype == ml_dtypes.bfloat16:
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    return mx.array(array)


def to_array(value: mx.array) -> np.ndarray:
    """Return an array, a view where that is possible; waits for the device."""
    if value.dtype == mx.bfloat16:
        return np.asarray(value.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.asarray(value)


def ends(arrays: Sequence[mx.array]) -> list[int]:
    """Return where all arrays but the last end when they are concatenated: what `mx.split` takes them apart by."""
    return list(accumulate(len(each) for each in arrays[:-1]))
