"""CoLA (arXiv 2502.10940): a low-rank pair with an activation between."""

from collections.abc import Mapping

from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array
from lost.projections.lowrank import LowRank


class Cola(LowRank):
    """y = up act(down x), with down (rank x in) and up (out x rank)."""

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
