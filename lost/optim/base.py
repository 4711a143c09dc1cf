"""The interface of an optimizer: the arrays it keeps, their size, its update written out in numpy."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

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


class Group(NamedTuple):
    """What parameters share, as in PyTorch's parameter groups.

    Attributes:
        rate: learning rate as a share of the main one.
        weight_decay: share of a weight, times its learning rate, that a step takes away.
    """

    rate: float
    weight_decay: float


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimizer with its settings.

    To add one: subclass this in a file of its own, write its update for each backend, name these in `updates`, and
    register the class in `lost.optim.KINDS`.

    Attributes:
        arrays: the names of its state's arrays for a parameter, in the order of a checkpoint.
        never_negative: those of them that are never negative, as `lost verify` checks.
        updates: each backend's update, as `module:Class`.
        reads: the settings that it reads beside rates and decay, which all do; None: it doesn't say, and none of them
            counts as unread.
        by_rows: whether the state of some rows of a parameter is the same rows of the whole state, so that it can be
            sharded by rows.
        gradient_powers: the power of the gradient that an array of the parameter's shape is a sum or a mean of, by the
            array's name: it grows with a model by that.
        begun_anew: the value of all entries with which an array begins anew in a grown model, by its name. One that is
            in neither of these can't grow.
        rate_settings: the settings, beside its name, on which it depends which rates suit.
    """

    settings: OptimizerConfig
    arrays: ClassVar[tuple[str, ...]]
    never_negative: ClassVar[tuple[str, ...]] = ()
    updates: ClassVar[Mapping[str, str]] = MappingProxyType({})
    reads: ClassVar[frozenset[str] | None] = None
    by_rows: ClassVar[bool] = True
    gradient_powers: ClassVar[Mapping[str, int]] = MappingProxyType({})
    begun_anew: ClassVar[Mapping[str, float]] = MappingProxyType({})
    rate_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse a configuration that it doesn't support, with a ValueError; most support any."""
        return

    def group(self, row: Parameter) -> Group:
        """Return a parameter's learning rate and decay, as the settings and its widening have them."""
        settings = self.settings
        own = {EMBEDDING: settings.embedding_lr, HEAD: settings.head_lr}.get(row.name) or settings.lr
        rate, decay = (row.widening**power for power in self.width_powers(row))
        return Group(own / settings.lr * rate, settings.weight_decay * decay if row.decays else 0.0)

    def width_powers(self, row: Parameter) -> tuple[float, float]:
        """Return the powers of a parameter's widening by which its learning rate and its decay go.

        By default AdamW's, each of whose updates moves an entry by about the rate. What adds up m times as many inputs
        then moves its output by m times as much, so its rate goes as 1/m (Yang et al., arXiv 2203.03466, table 3; the
        head too, whose output nothing divides). Trained long, its largest singular value is as (rate/decay)^(1/2)
        m^(3/4), which stays as it is where the decay goes as m^(1/2) (Fan et al., arXiv 2510.15262).
        """
        return -1.0, 0.5

    @property
    def has_adamws_rates(self) -> bool:
        """Whether the rates that are best for AdamW are best for it too."""
        return False

    def orthogonalized(self, table: Table) -> Counter[tuple[int, int]]:
        """Return how many matrices, or parts of them, it orthogonalizes as Muon does, by shape: by default none."""
        return Counter()

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
