"""How an array gets more rows and columns: a unit is copied, and what reads it reads all of its copies.

The copies of a unit give the same, so what read the unit may read each copy with a share of its weight (Net2Net, arXiv
1511.05641; bert2BERT, arXiv 2110.07143). The shares are uneven, entry by entry: copies with equal shares would have
equal gradients, and stay copies for ever. New unit j is a copy of unit j mod n.
"""

from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

Array = np.ndarray


def copies_of(size: int, new_size: int) -> Array:
    """Return, of each new unit, the one that it is a copy of: (new_size,)."""
    return np.arange(new_size) % size


class Growth(Protocol):
    """Growth of one kind of array: of weights, or of an optimizer's moments of them."""

    def outputs(self, array: Array, source: Array) -> Array:
        """Return the rows `source` of an array: what gives the outputs of copies."""

    def inputs(self, array: Array, size: int) -> Array:
        """Return an array (..., size) of one (..., n): what reads copies of its n inputs."""


@dataclass(frozen=True)
class OfWeights:
    """Weights that compute the same.

    Attributes:
        random: draws the shares.
    """

    random: np.random.Generator

    def outputs(self, array: Array, source: Array) -> Array:
        """Return copies."""
        return array[source]

    def inputs(self, array: Array, size: int) -> Array:
        """Return shares: those of a column add up to it exactly, in the array's own type.

        All are multiples of the column's last digit, and none is larger than it, so none is rounded.
        """
        digits = ml_dtypes.finfo(array.dtype).nmant + 1
        count = array.shape[-1]
        rest = array.astype(np.float64)
        last_digit = np.ldexp(1.0, np.frexp(rest)[1] - digits)
        taken: list[Array] = []
        for number in range(-(-size // count) - 1, 0, -1):  # the last copies first, which not all columns have
            columns = slice(0, min(count, size - number * count))
            share = self.random.uniform(0.5, 1.5, rest[..., columns].shape) / (number + 1)
            unit = last_digit[..., columns]
            part = np.rint(rest[..., columns] * share / unit) * unit
            rest[..., columns] -= part
            taken.append(part)
        return np.concatenate([rest, *reversed(taken)], axis=-1).astype(array.dtype)


@dataclass(frozen=True)
class OfMoments:
    """Moments as the grown model's gradients would have made them, were the shares even.

    The gradient of what gives a unit's output is divided among its copies; that of what reads the copies is the same
    for each of them.

    Attributes:
        power: of the gradient that the moments are means of.
    """

    power: int

    def outputs(self, array: Array, source: Array) -> Array:
        """Return copies, divided by how many of each there are."""
        divided = array.astype(np.float32)[source].T / np.bincount(source)[source].astype(np.float32) ** self.power
        return divided.T.astype(array.dtype)

    def inputs(self, array: Array, size: int) -> Array:
        """Return copies."""
        return array[..., copies_of(array.shape[-1], size)]
