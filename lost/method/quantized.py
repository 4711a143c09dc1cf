"""Matrices in 8 or 4 bits, as MLX's `mx.quantize` stores them: entry = scale * number + bias.

Each row is in groups with a scale and a bias; a word of 32 bits holds 32 / bits numbers, the first in its lowest bits.
"""

import ml_dtypes
import numpy as np

GROUP = 64  # entries of a row with one scale and one bias, MLX's default


def quantized(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return words (out x in bits / 32) int32, scales and biases (out x in / 64) float64, of a matrix (out x in).

    The least entry of a group is its bias, the largest has the largest number. Both are rounded to bfloat16 before
    numbers are chosen, so that they are the same in whichever type they are stored.
    """
    grouped = weight.astype(np.float64).reshape(len(weight), -1, GROUP)
    biases = _bfloat16(grouped.min(axis=-1))
    scales = _bfloat16((grouped.max(axis=-1) - biases) / (2**bits - 1))
    offset = grouped - biases[..., None]
    divided = np.divide(offset, scales[..., None], out=np.zeros_like(offset), where=scales[..., None] > 0)
    numbers = np.clip(np.rint(divided), 0, 2**bits - 1).astype(np.uint32).reshape(len(weight), -1, 32 // bits)
    words = np.bitwise_or.reduce(numbers << np.arange(0, 32, bits, dtype=np.uint32), axis=-1)
    return words.astype(np.uint32).view(np.int32), scales, biases


def unpacked(words: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """Return the matrix (out x in), float32, of words (out x in bits / 32), scales and biases (out x groups)."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    numbers = (words.view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    grouped = numbers.reshape(*scales.shape, -1).astype(np.float32)
    whole = scales[..., None].astype(np.float32) * grouped + biases[..., None].astype(np.float32)
    return whole.reshape(len(words), -1)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)
