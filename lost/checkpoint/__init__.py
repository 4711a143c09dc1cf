"""Checkpoints: written, sealed, read back, verified; which ones a run holds, and which go."""

from lost.checkpoint.checkpoint import (
    CONFIG,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    Checkpoint,
    model_description,
    open_checkpoint,
)
from lost.checkpoint.state import BestLoss, Origin, TrainState
from lost.checkpoint.store import (
    CHECKPOINTS,
    LATEST,
    checkpoint_named,
    checkpoint_path,
    checkpoints,
    find_checkpoint,
    newest_valid,
    prune,
    run_and_step,
    set_latest,
    tokenizer_path,
)
from lost.checkpoint.verify import check_intact, problems
from lost.checkpoint.writer import array_bytes, write, write_manifest

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "LATEST",
    "MANIFEST",
    "MODEL",
    "OPTIMIZER",
    "BestLoss",
    "Checkpoint",
    "Origin",
    "TrainState",
    "array_bytes",
    "check_intact",
    "checkpoint_named",
    "checkpoint_path",
    "checkpoints",
    "find_checkpoint",
    "model_description",
    "newest_valid",
    "open_checkpoint",
    "problems",
    "prune",
    "run_and_step",
    "set_latest",
    "tokenizer_path",
    "write",
    "write_manifest",
]
