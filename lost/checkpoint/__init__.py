"""Checkpoints: written whole, sealed, read back, verified; which ones a run holds, and which go."""

from lost.checkpoint.checkpoint import CONFIG, MANIFEST, Checkpoint, model_description, open_checkpoint
from lost.checkpoint.state import Origin, TrainState
from lost.checkpoint.store import checkpoint_path, checkpoints, newest_valid, prune
from lost.checkpoint.writer import array_bytes, write, write_arrays, write_manifest

__all__ = [
    "CONFIG",
    "MANIFEST",
    "Checkpoint",
    "Origin",
    "TrainState",
    "array_bytes",
    "checkpoint_path",
    "checkpoints",
    "model_description",
    "newest_valid",
    "open_checkpoint",
    "prune",
    "write",
    "write_arrays",
    "write_manifest",
]
