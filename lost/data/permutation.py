"""Order of an epoch's samples: a keyed permutation that needs no memory and no shuffling pass.

A Feistel network over the smallest power of four that holds the range, walked until it lands inside (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Any position is computed alone, so a run's position in its
data is one integer, whatever the batch shape or the number of devices.
"""

import numpy as np

from lost.utils.randomness import generator

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A permutation of range(size) that depends on (seed, epoch) alone; `key` tells other uses from epochs."""

    def __init__(self, size: int, seed: int, epoch: int, key: str = "epoch") -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = generator(seed, f"{key} {epoch}").integers(0, 2**64, _ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the sample numbers at `positions` (any shape, each in [0, size)) as int64."""
        values = self._encrypt(np.asarray(positions).astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = (right ^ key) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        return (left << self._half) | right
