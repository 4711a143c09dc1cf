"""What a run writes and shows about itself: metrics.jsonl, log.txt, and trackers that a configuration names."""

from typing import cast

from lost.config.registry import TRACKERS, Registry
from lost.tracking.base import Factory, Tracker, Trackers

KINDS = cast(Registry[Factory], TRACKERS)

__all__ = ["KINDS", "Tracker", "Trackers"]
