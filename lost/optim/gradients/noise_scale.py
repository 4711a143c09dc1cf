"""The gradient noise scale: beyond a batch of about so many tokens, larger ones save few steps.

The simple one of McCandlish et al., "An Empirical Model of Large-Batch Training" (arXiv 1812.06162): tr(S) / |G|^2.
G is the gradient over all text, S the covariance of one token's. Both are estimated from gradients of batches of two
sizes, those of micro-batches and their sum (its appendix A.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lost.config.fields import FiniteOrNegative, Natural

WINDOW = 20  # measurements that the running means are over, older ones fading


def estimates(parts: Sequence[float], whole: float, counts: Sequence[int]) -> tuple[float, float]:
    """Return unbiased estimates of |G|^2, which may be negative where noise prevails, and of tr(S).

    Args:
        parts: squared norms of at least two micro-batches' shares of a gradient, which is their sum.
        whole: its squared norm.
        counts: predictions that enter the loss of each.
    """
    total = sum(counts)
    shares = [count / total for count in counts]
    if max(shares) == 1:
        return math.nan, math.nan  # all is learned from one micro-batch, which tells nothing of noise
    # A share w of the gradient has w^2 |G|^2 + w tr(S) / total as its expected square, their sum |G|^2 + tr(S) / total.
    square = (whole - math.fsum(parts)) / (1 - math.fsum(share**2 for share in shares))
    return square, total * (whole - square)


@dataclass(frozen=True)
class GradientNoise:
    """Running means of both estimates: their ratio isn't that of a single measurement, which is far off.

    Attributes:
        square: of |G|^2.
        variance: of tr(S).
        seen: measurements that they are over, at most WINDOW.
    """

    square: FiniteOrNegative = 0.0
    variance: FiniteOrNegative = 0.0
    seen: Natural = 0

    def after(self, square: float, variance: float) -> "GradientNoise":
        """Return the means with another measurement; one that isn't finite is left out."""
        if not (math.isfinite(square) and math.isfinite(variance)):
            return self
        seen = min(self.seen + 1, WINDOW)
        return GradientNoise(
            self.square + (square - self.square) / seen, self.variance + (variance - self.variance) / seen, seen
        )

    @property
    def scale(self) -> float | None:
        """The noise scale in tokens; None: too few measurements to tell |G|^2 from zero."""
        return self.variance / self.square if self.square > 0 else None
