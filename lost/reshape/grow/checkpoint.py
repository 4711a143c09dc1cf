"""A grown checkpoint, from one on disk."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lost import checkpoint
from lost.checkpoint import Checkpoint
from lost.config import Config
from lost.errors import UserError
from lost.interop.destination import check_destination
from lost.interop.special_tokens import own_tokenizer
from lost.model.parameters import EMBEDDING, index_limits, parameter_table, projections, shapes_of
from lost.optim import state_shapes
from lost.optim.gradients.skip_step import GuardState
from lost.reshape.grow.model import grown_moments, grown_parameters
from lost.reshape.grow.target import Depth, Target, target
from lost.storage.arrays import check_arrays
from lost.storage.files import existing
from lost.storage.tensors import PART_BYTES
from lost.utils.machine import available_bytes

_FLOAT64_COPIES = 3  # of the largest matrix, while it grows


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
        UserError: it can't grow so, or there is no room for it.
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
    _check_room(path, goal, keep_moments)
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
        own_tokenizer(source),
        part_bytes,
    )
    return written, goal


def _check_room(path: Path, goal: Target, with_moments: bool) -> None:
    """Refuse what the disk has no room for, or the memory: it would take hours to find out.

    Raises:
        UserError: there is none.
    """
    stored, written = (_bytes(config, with_moments) for config in (goal.old, goal.new))
    matrices = (each.in_features * each.out_features for each in projections(goal.new))
    largest = max(*matrices, parameter_table(goal.new)[EMBEDDING].size)
    held = _FLOAT64_COPIES * 8 * largest + stored
    folder = existing(path.parent)
    for what, needed, there, free in (
        ("writes", written, str(folder), shutil.disk_usage(folder).free),
        ("computes with", held, "this machine", available_bytes()),
    ):
        if needed > free:
            raise UserError(
                f"--grow: a model of {goal.new.model.hidden_size} units and {len(goal.blocks)} blocks {what} "
                f"{needed / 2**30:,.2f} GiB, and {there} has {free / 2**30:,.2f} GiB free; expected room for it; grow "
                "it less, or make room"
            )


def _bytes(config: Config, with_moments: bool) -> int:
    """Return the bytes of a model's arrays on disk."""
    if with_moments:
        return checkpoint.array_bytes(config)
    return sum(row.bytes for row in parameter_table(config).values())
