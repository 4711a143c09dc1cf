"""What an optimizer's update does in MLX."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import mlx.core as mx

Named = dict[str, mx.array]


class Update(Protocol):
    """Made of (settings, trained arrays by name, the parameters' rows by name)."""

    def step(self, lr: float, parameters: Named, gradients: Named) -> Named:
        """Return float32 parameters after an update by float32 gradients; nothing is computed yet."""

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the arrays that `lost.optim.state_shapes` lists."""

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Take them, as they were after so many updates."""

    def held(self) -> object:
        """Return all arrays that an update changes, to be computed with it."""
