"""The protocol of an optimizer's update in MLX, and how the engine calls it."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import mlx.core as mx

from lost.backends.mlx.optim.stacks import Stacks

Named = dict[str, mx.array]


class Update(Protocol):
    """An optimizer's update; created from (settings, trained arrays by name, parameter table)."""

    compiles: bool
    """Whether a step may be compiled, where the micro-step is."""

    def step(self, lr: mx.array, parameters: Named, gradients: Named) -> Named:
        """Return float32 parameters after an update by float32 gradients, not evaluated yet; `lr` is a float32 too."""

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the arrays that `lost.optim.state_shapes` lists."""

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load the arrays that `state` yields, as they were after `updates` updates."""

    def held(self) -> object:
        """Return all arrays that an update changes, to be evaluated with it.

        If it compiles, they are also all that it reads, in lists and dictionaries that stay the same objects.
        """


class StackedUpdate(Protocol):
    """An `Update` of stacks: all arrays come and go by the names of their parts.

    The class says so by `stacks`: `always`, or `compiled` if it wants arrays of one parameter where a step isn't.
    """

    compiles: bool

    def step(self, lr: mx.array, parameters: Stacks, gradients: Stacks) -> Stacks:
        """As in `Update`."""

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """As in `Update`: of single parameters."""

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """As in `Update`."""

    def held(self) -> object:
        """As in `Update`."""


class Single:
    """An `Update` of single arrays as one of stacks, each of which has one."""

    def __init__(self, kind: Any, settings: Any, parameters: Stacks, table: Any) -> None:
        self._update: Update = kind(settings, {names[0]: stack[0] for names, stack in parameters.items()}, table)
        self.compiles, self.state, self.load, self.held = (
            self._update.compiles, self._update.state, self._update.load, self._update.held
        )  # fmt: skip

    def step(self, lr: mx.array, parameters: Stacks, gradients: Stacks) -> Stacks:
        """Take the arrays out of their stacks, and put them back."""
        single = ({names[0]: stack[0] for names, stack in each.items()} for each in (parameters, gradients))
        moved = self._update.step(lr, *single)
        return {(name,): array[None] for name, array in moved.items()}
