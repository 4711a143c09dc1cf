"""A grown checkpoint, from one on disk."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lost import checkpoint
from lost.checkpoint import Checkpoint
from lost.errors import UserError
from lost.interop.rewrite import check_destination
from lost.model.parameters import index_limits, parameter_table, shapes_of
from lost.optim import state_shapes
from lost.optim.skip_step import GuardState
from lost.reshape.grow.model import grown_moments, grown_parameters
from lost.reshape.grow.target import Depth, Target, target
from lost.storage.arrays import check_arrays
from lost.storage.tensors import PART_BYTES


def grow(
    source: Checkpoint,
    path: Path,
    asked: Mapping[str, int | float],
    depth: Depth = "stack",
    keep_moments: bool = False,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
) -> tuple[Checkpoint, Target]:
    """Write what a checkpoint grows to as the checkpoint `path`, of the same step; all its arrays are held at once.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        asked: sizes by key, as `lost.reshape.grow.target.sizes` returns them.
        depth: as in `lost.reshape.grow.target.target`.
        keep_moments: whether the optimizer's moments grow too; else the weights alone are written.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.

    Returns:
        What was written, and what it is of.

    Raises:
        UserError: it can't grow so.
        CheckpointError: something is at `path`.
        StorageError: the disk refused.
    """
    if keep_moments and not (source.progress.has_moments and source.resumable):
        raise UserError(
            f"--moments keep: {source.path} holds no optimizer state; expected a checkpoint as training writes it; "
            "name one, or leave the option out"
        )
    check_destination(path, source.path, overwrite)
    goal = target(source.config, asked, depth)
    table, parameters = parameter_table(goal.new), dict(source.parameters())
    arrays = check_arrays(grown_parameters(goal, parameters), shapes_of(table), index_limits(table))
    moments = grown_moments(goal, dict(source.moments()), parameters) if keep_moments else ()
    written = checkpoint.write(
        path,
        arrays,
        check_arrays(moments, state_shapes(goal.new)) if keep_moments else (),
        goal.new,
        # What was measured of the old model is not of this one.
        replace(
            source.progress,
            validation_loss=None,
            best=None,
            noise=None,
            guard=GuardState(skipped=source.progress.guard.skipped),
        ),
        source.tokenizer(),
        part_bytes,
    )
    return written, goal
