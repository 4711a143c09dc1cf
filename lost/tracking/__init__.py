"""What a run writes and shows about itself: metrics.jsonl, log.txt, and trackers that a configuration names."""

from typing import cast

from lost.config.registry import TRACKERS, Registry
from lost.tracking.base import Factory, Tracker, Trackers
from lost.tracking.tensorboard import TensorBoard
from lost.tracking.trackio import Trackio
from lost.tracking.wandb import Wandb

KINDS = cast(Registry[Factory], TRACKERS)
KINDS.update(tensorboard=TensorBoard, wandb=Wandb, trackio=Trackio)

__all__ = ["KINDS", "Tracker", "Trackers"]
