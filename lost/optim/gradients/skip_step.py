"""Skipping of updates whose loss or gradient isn't finite, or whose gradient's norm is a spike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from lost.config import TrainConfig
from lost.config.fields import Finite, Natural

WARM_UP = 20  # applied updates before a norm can count as a spike
WINDOW = 100  # applied updates that the mean norm is over, older ones fading


@dataclass(frozen=True)
class GuardState:
    """Counts of skipped updates, and statistics of applied ones. The field names are those of the manifest.

    Attributes:
        skipped: updates skipped since the run began.
        in_a_row: consecutive ones among them, since the last applied update.
        usual_norm: running mean of the gradient norms of applied updates.
        seen: applied updates that the mean is over, at most WINDOW.
    """

    skipped: Natural = 0
    in_a_row: Natural = 0
    usual_norm: Finite = 0.0
    seen: Natural = 0


def worst(norms: Mapping[str, float]) -> list[str]:
    """Return the names of gradients whose norm isn't finite, else of the three largest."""
    not_finite = [name for name, norm in norms.items() if not math.isfinite(norm)]
    return not_finite or sorted(norms, key=lambda name: -norms[name])[:3]


class Guard(Protocol):
    """Holds the state where a backend can update it without waiting for the device."""

    def state(self) -> GuardState:
        """Return the state after the last step; waits for the device."""

    def restore(self, state: GuardState) -> None:
        """Continue from a state."""


class SkipRule:
    """The rule, in Python numbers.

    Args:
        train: `skip_spikes`, the factor over the mean norm above which an update is skipped, or None.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._factor, self._state = train.skip_spikes, GuardState()

    def state(self) -> GuardState:
        """Return the state after the last step."""
        return self._state

    def restore(self, state: GuardState) -> None:
        """Continue from a state."""
        self._state = state

    def should_skip(self, loss: float, norm: float) -> bool:
        """Return whether to skip the update of a step, and update the state."""
        last = self._state
        is_spike = bool(self._factor) and last.seen >= WARM_UP and norm > (self._factor or 0) * last.usual_norm
        if is_spike or not math.isfinite(loss) or not math.isfinite(norm):
            self._state = replace(last, skipped=last.skipped + 1, in_a_row=last.in_a_row + 1)
            return True
        seen = min(last.seen + 1, WINDOW)
        mean_norm = last.usual_norm + (norm - last.usual_norm) / seen
        self._state = GuardState(last.skipped, 0, mean_norm, seen)
        return False
