"""The interface of an optimizer: the arrays it keeps, their size, its update written out in numpy."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import Config, OptimizerConfig
from lost.model.parameters import EMBEDDING, HEAD, Parameter

Array = np.ndarray
Table = Mapping[str, Parameter]
Arrays = Mapping[str, Array]


def check_float32_weights(config: Config) -> None:
    """Refuse weights that are kept in bfloat16, with a ValueError."""
    if config.train.param_dtype != "float32":
        raise ValueError(
            f"optimizer.name = {config.optimizer.name} with train.param_dtype = {config.train.param_dtype}: needs "
            "float32 weights; set train.param_dtype=float32 (train.dtype may be bfloat16), or optimizer.name=adamw"
        )


def relative_rate(settings: OptimizerConfig, row: Parameter) -> float:
    """Return the learning rate of a parameter as a share of the main one."""
    own = {EMBEDDING: settings.embedding_lr, HEAD: settings.head_lr}.get(row.name)
    return own / settings.lr if own else 1.0


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimizer with its settings.

    To add one: subclass this in a file of its own, write its update for each backend, name these in `updates`, and
    register the class in `lost.optim.KINDS`.

    Attributes:
        arrays: the names of its state's arrays for a parameter, in the order of a checkpoint.
        never_negative: those of them that are never negative, as `lost verify` checks.
        updates: each backend's update, as `module:Class`.
        by_rows: whether the state of some rows of a parameter is the same rows of the whole state, so that it can be
            sharded by rows.
    """

    settings: OptimizerConfig
    arrays: ClassVar[tuple[str, ...]]
    never_negative: ClassVar[tuple[str, ...]] = ()
    updates: ClassVar[Mapping[str, str]] = MappingProxyType({})
    by_rows: ClassVar[bool] = True

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse a configuration that it doesn't support, with a ValueError; most support any."""
        return

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its arrays for a parameter, by name: by default the parameter's own."""
        return dict.fromkeys(self.arrays, row.shape)

    def bytes(self, row: Parameter, width: int) -> int:
        """Count the bytes of these arrays in memory, at `width` bytes an entry of a parameter."""
        return width * sum(math.prod(shape) for shape in self.shapes(row).values())

    def step(
        self, table: Table, weights: Arrays, gradients: Arrays, states: Mapping[str, Arrays], lr: float, number: int
    ) -> dict[str, Array]:
        """Return all weights after an update; the slow reference of the backends.

        Args:
            table: the parameter table.
            weights: before, by name.
            gradients: clipped.
            states: the optimizer's state of each parameter, zeros before the first update; changed in place.
            lr: learning rate.
            number: of the update, from 1.
        """
        return {
            name: self.update(table[name], weights[name], gradient, states[name], lr, number)
            for name, gradient in gradients.items()
        }

    @abstractmethod
    def update(
        self, row: Parameter, weight: Array, gradient: Array, state: Mapping[str, Array], lr: float, number: int
    ) -> Array:
        """Return the weight after an update; the slow reference for the backends.

        Args:
            row: of the parameter table.
            weight: before the update.
            gradient: clipped.
            state: the optimizer's arrays, zeros before the first update; changed in place.
            lr: learning rate.
            number: of the update, from 1.
        """
