"""CoLA (arXiv 2502.10940): a low-rank pair with an activation between."""

from collections.abc import Mapping
from typing import Any

from lost.config import ProjectionSettings
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array
from lost.projections.lowrank import LowRank


class Cola(LowRank):
    """y = up act(down x), with down (rank x in) and up (out x rank)."""

    @classmethod
    def compared_settings(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return its paper's activation where there is none: without one it would be lowrank."""
        return {"activation": "silu"} if settings.activation == "none" else {}

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the rank and the activation."""
        return super().card_rows(settings) | {"activation": settings.activation}

    @property
    def has_activation(self) -> bool:
        """Whether there is an activation between down and up."""
        return self.settings.activation != "none"

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return up act(down x)."""
        return ACTIVATIONS[self.settings.activation](self.features(x, values)) @ values["up"].T

    def saved_per_token(self) -> int:
        """The bottleneck, what is convolved of it, and what is activated."""
        return super().saved_per_token() + (self.settings.rank if self.has_activation else 0)
