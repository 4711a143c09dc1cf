"""Curves of a run: what is drawn, against what."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lost.report.story import Story
from lost.tracking.metrics import is_number

_POINTS = 1200  # of a curve: more can't be told apart on a screen
_SMOOTH = 50  # reports: the half-life of the mean is the curve's length divided by this


@dataclass(frozen=True)
class Across:
    """What a curve is drawn against.

    Attributes:
        name: as an option names it.
        title: of the axis.
        places: where a step of a run is; None: it isn't known.
    """

    name: str
    title: str
    places: Callable[[Story, int], float | None]


def _hours(story: Story, step: int) -> float | None:
    known = story.seconds
    if step in known:
        return known[step] / 3600
    before = max((each for each in known if each < step), default=None)  # a validation between two reports
    return None if before is None else known[before] / 3600


ACROSS = {
    each.name: each
    for each in (
        Across("steps", "steps", lambda story, step: step),
        Across("tokens", "tokens", lambda story, step: story.tokens(step)),
        Across("hours", "hours of training", _hours),
        Across("flops", "FLOPs", lambda story, step: story.tokens(step) * story.flops_per_token),
    )
}


@dataclass(frozen=True)
class Curve:
    """Points of one run.

    Attributes:
        x: (n,) float64, ascending.
        y: (n,) float64.
    """

    x: np.ndarray
    y: np.ndarray

    def smoothed(self) -> "Curve":
        """Return its running mean, exponential, without the pull of its beginning."""
        decay = 0.5 ** (1 / max(1.0, len(self.y) / _SMOOTH))
        total = weight = 0.0
        means = []
        for value in self.y:
            total, weight = decay * total + value, decay * weight + 1
            means.append(total / weight)
        return Curve(self.x, np.array(means))

    def thinned(self) -> "Curve":
        """Return as many points as can be told apart: means of neighbours."""
        if len(self.x) <= _POINTS:
            return self
        ends = np.linspace(0, len(self.x), _POINTS + 1).astype(int)[:-1]
        counts = np.diff([*ends, len(self.x)])
        return Curve(np.add.reduceat(self.x, ends) / counts, np.add.reduceat(self.y, ends) / counts)


def curve(story: Story, rows: list[dict[str, Any]], key: str, across: Across) -> Curve:
    """Return the curve of a field of a run's rows; rows without it are left out."""
    points = [
        (place, row[key])
        for row in rows
        if is_number(row.get(key)) and (place := across.places(story, row["step"])) is not None
    ]
    x, y = zip(*points, strict=True) if points else ((), ())
    return Curve(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64))
