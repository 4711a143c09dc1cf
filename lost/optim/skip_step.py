"""Which updates to leave out: of a loss or gradient that isn't finite, or of a gradient far beyond the usual."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from lost.config import TrainConfig

WARM_UP = 20  # applied updates before a norm can stand out
WINDOW = 100  # applied updates that the usual norm is a mean over, older ones fading


@dataclass(frozen=True)
class GuardState:
    """What has been left out so far, and what is usual. Skipped updates don't enter the statistics.

    Attributes:
        skipped: updates left out since the run began.
        in_a_row: of these, without an applied one since.
        usual_norm: running mean of the gradients' norms of applied updates.
        seen: applied updates that the mean is over, at most WINDOW.
    """

    skipped: int = 0
    in_a_row: int = 0
    usual_norm: float = 0.0
    seen: int = 0


def worst(norms: Mapping[str, float]) -> list[str]:
    """Return the names of gradients whose norm isn't finite, else of the three largest."""
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    return broken or sorted(norms, key=lambda name: -norms[name])[:3]


class Guard(Protocol):
    """Keeps the state where a backend can update it without waiting for the device."""

    def state(self) -> GuardState:
        """Return the state after the last step; waits for the device."""

    def restore(self, state: GuardState) -> None:
        """Go on from a state."""


class SkipRule:
    """The rule itself, in Python's numbers.

    Args:
        train: `skip_spikes`, the factor over the usual norm at which an update is left out, or None.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._factor, self._state = train.skip_spikes, GuardState()

    def state(self) -> GuardState:
        """Return the state after the last step."""
        return self._state

    def restore(self, state: GuardState) -> None:
        """Go on from a state."""
        self._state = state

    def skips(self, loss: float, norm: float) -> bool:
        """Say whether the update of a step is to be left out, and remember."""
        last = self._state
        stands_out = bool(self._factor) and last.seen >= WARM_UP and norm > (self._factor or 0) * last.usual_norm
        if stands_out or not math.isfinite(loss) or not math.isfinite(norm):
            self._state = replace(last, skipped=last.skipped + 1, in_a_row=last.in_a_row + 1)
            return True
        seen = min(last.seen + 1, WINDOW)
        usual = last.usual_norm + (norm - last.usual_norm) / seen
        self._state = GuardState(last.skipped, 0, usual, seen)
        return False
