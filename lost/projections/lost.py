"""The LOST layer (arXiv 2508.02668): a low-rank pair beside a few whole input channels.

    y = gamma B act(down x) + (1 - gamma) sparse x[channels]

Stored with `up = [B | sparse]`, so that one matrix product makes y from r activated features and k raw channels.
"""

from collections.abc import Mapping

import numpy as np

from lost.factors import channel_count, decompose
from lost.projections.base import Array, Projection, Tensor
from lost.projections.lowrank import check_rank
from lost.randomness import normal


def silu(x: Array) -> Array:
    """x * sigmoid(x), without overflow for large negative x."""
    return x * (0.5 + 0.5 * np.tanh(0.5 * x))


class Lost(Projection):
    """`down` (r x in), `up` (out x (r + k)), `channels` (k sorted input channels)."""

    def __post_init__(self) -> None:
        check_rank(self)

    @property
    def channels(self) -> int:
        """Number of kept input channels, rounded up to the settings' `align`."""
        settings = self.settings
        return channel_count(self.in_features, settings.density, settings.rank, settings.align)

    @property
    def has_activation(self) -> bool:
        """Whether there is an activation between down and up."""
        return self.settings.activation != "none"

    def tensors(self) -> dict[str, Tensor]:
        """Down, up = [B | sparse], and the channels' numbers."""
        rank, kept = self.settings.rank, self.channels
        return {
            "down": Tensor((rank, self.in_features)),
            "up": Tensor((self.out_features, rank + kept)),
            "channels": Tensor((kept,), integer=True),
        }

    def initial(self, seed: int, std: float) -> dict[str, Array]:
        """Decompose the very weight that `dense` would start from."""
        weight = normal(seed, f"{self.name}.weight", (self.out_features, self.in_features), std)
        settings = self.settings
        factors = decompose(
            weight, settings.rank, settings.density, settings.select, settings.values, align=settings.align
        )
        return {"down": factors.down, "up": factors.up, "channels": factors.channels}

    def forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return up [gamma act(down x) ; (1 - gamma) x[channels]]."""
        gamma = self.settings.gamma
        hidden = x @ values["down"].T
        if self.has_activation:
            hidden = silu(hidden)
        inner = np.concatenate([gamma * hidden, (1 - gamma) * x[..., values["channels"]]], axis=-1)
        return inner @ values["up"].T

    def saved_per_token(self) -> int:
        """The bottleneck before its activation, and the input of `up`."""
        rank = self.settings.rank
        return (rank if self.has_activation else 0) + rank + self.channels
