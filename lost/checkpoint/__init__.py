"""Checkpoints: written whole, sealed, read back, verified; which ones a run holds, and which go."""

from lost.checkpoint.checkpoint import CONFIG, MANIFEST, Checkpoint, model_description, open_checkpoint
from lost.checkpoint.state import Origin, Progress
from lost.checkpoint.store import checkpoints, newest_valid, place, prune
from lost.checkpoint.writer import array_bytes, write, write_arrays, write_manifest

__all__ = [
    "CONFIG",
    "MANIFEST",
    "Checkpoint",
    "Origin",
    "Progress",
    "array_bytes",
    "checkpoints",
    "model_description",
    "newest_valid",
    "open_checkpoint",
    "place",
    "prune",
    "write",
    "write_arrays",
    "write_manifest",
]
