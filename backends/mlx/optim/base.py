"""The protocol of an optimizer's update in MLX."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import mlx.core as mx

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
