"""What the core must know about an optimizer: the arrays it keeps, what they take, its update written out in numpy."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import Config, OptimizerConfig
from lost.model.parameters import Parameter

Array = np.ndarray


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimizer with its settings.

    To add one: subclass this in a file of its own, write its update for each backend that has it, name these in
    `updates`, and the class in `lost.optim.KINDS`.

    Attributes:
        arrays: the names of what it keeps of a parameter, in the order of a checkpoint.
        never_negative: those of them that are never negative, which `lost verify` looks at.
        updates: where each backend finds the update, as `module:Class`.
        by_rows: whether what it keeps of some rows of a parameter is some rows of what it keeps of all of them, so that
            processes can share it out.
    """

    settings: OptimizerConfig
    arrays: ClassVar[tuple[str, ...]]
    never_negative: ClassVar[tuple[str, ...]] = ()
    updates: ClassVar[Mapping[str, str]] = MappingProxyType({})
    by_rows: ClassVar[bool] = True

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse a configuration that it can't follow, with a ValueError; most follow any."""
        return

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what it keeps of a parameter, by name: each array the parameter's own."""
        return dict.fromkeys(self.arrays, row.shape)

    def bytes(self, row: Parameter, width: int) -> int:
        """Count the bytes that this takes in memory, where an entry of a parameter takes `width`."""
        return width * sum(math.prod(shape) for shape in self.shapes(row).values())

    @abstractmethod
    def update(
        self, row: Parameter, weight: Array, gradient: Array, state: Mapping[str, Array], lr: float, number: int
    ) -> Array:
        """Return a weight after an update; the slow reference of the backends.

        Args:
            row: the parameter's.
            weight: before.
            gradient: clipped.
            state: what was kept, zeros before the first update; changed in place.
            lr: learning rate.
            number: of the update, from 1.
        """
