"""The checkpoints of a run: where each is, which is the newest that is intact, which a command means, which ones go."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lost.checkpoint.checkpoint import MANIFEST, Checkpoint, open_checkpoint
from lost.checkpoint.verify import check_intact
from lost.errors import CheckpointError
from lost.storage.files import remove_folder, remove_stale, replace_text
from lost.storage.nofollow import check_folder, is_folder, resolved
from lost.utils.wording import did_you_mean_path

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
LATEST = "latest"  # the file of a run that names its newest checkpoint
_NAME = re.compile(r"step-\d{8,}")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def is_checkpoint_name(name: str) -> bool:
    """Say whether a folder's name is a checkpoint's."""
    return _NAME.fullmatch(name) is not None


def checkpoint_around(path: Path) -> Path | None:
    """Return the checkpoint that a path lies in; None: in none. A manifest.json may be of anything."""
    for each in resolved(path).parents:
        if (each / MANIFEST).is_file():
            with suppress(CheckpointError):
                return open_checkpoint(each).path
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, finished or not."""
    try:
        check_folder(folder)
        names = os.listdir(folder) if is_folder(folder) else []
    except OSError as error:
        raise CheckpointError(f"{folder} can't be read: {error.strerror}; expected a folder of checkpoints") from None
    return [folder / name for name in sorted(names) if is_checkpoint_name(name) and is_folder(folder / name)]


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint all of whose files are what was written, and what is wrong with newer ones."""
    rejected = []
    for path in reversed(checkpoints(folder)):
        try:
            checkpoint = open_checkpoint(path)
            check_intact(checkpoint)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        return checkpoint, rejected
    return None, rejected


def find_checkpoint(path: Path) -> tuple[Checkpoint, list[str]]:
    """Return the verified checkpoint in a checkpoint folder, or the newest intact one of a run folder.

    Returns:
        The checkpoint, and why newer ones of the run were skipped.

    Raises:
        CheckpointError: there is none, or the named one is damaged.
    """
    if (path / MANIFEST).exists() or is_checkpoint_name(path.name):
        checkpoint = open_checkpoint(path)
        check_intact(checkpoint)
        return checkpoint, []
    newest, rejected = newest_valid(path / CHECKPOINTS)
    if newest is None:
        why = f": {'; '.join(rejected)}" if rejected else ""
        raise CheckpointError(
            f"{path} holds no usable checkpoint{why}; expected a run folder or a checkpoint written by `lost train`"
        )
    return newest, rejected


def run_and_step(named: Path) -> tuple[Path, int | None]:
    """Return the run, or the checkpoint, and the step that RUN[@STEP] names; None: the newest."""
    parts = re.fullmatch(r"(.+)@([0-9]{1,15})", str(named))
    return (Path(parts[1]), int(parts[2])) if parts and not named.exists() else (named, None)


def checkpoint_named(named: Path) -> Path:
    """Return the path that RUN[@STEP] names: of a checkpoint, or of a run whose newest is meant.

    Raises:
        CheckpointError: it doesn't exist, or the run has none of this step.
    """
    path, step = run_and_step(named)
    if not path.exists():
        raise CheckpointError(
            f"{named}: {path} doesn't exist; {did_you_mean_path(path)}expected a run, or a checkpoint; name one"
        )
    held = {int(each.name.removeprefix("step-")): each for each in checkpoints(path / CHECKPOINTS)}
    if step is None or not held:
        return path
    if step not in held:
        nearest = sorted(sorted(held, key=lambda other: abs(other - step))[:2])
        raise CheckpointError(
            f"{named}: {path} has no checkpoint of step {step}; expected one that was kept (train.keep_every keeps "
            f"more); nearest: {' and '.join(f'{path}@{each}' for each in nearest)}"
        )
    return held[step]


def tokenizer_path(path: Path) -> Path:
    """Return the path of a tokenizer: of a run it is in the newest intact checkpoint."""
    return find_checkpoint(path)[0].path if checkpoints(path / CHECKPOINTS) else path


def set_latest(path: Path) -> None:
    """Name a checkpoint as the newest of its run.

    Raises:
        StorageError: the disk refused.
    """
    replace_text(path.parent.parent / LATEST, f"{path.parent.name}/{path.name}\n")


def prune(folder: Path, keep_last: int, keep_every: int, newest: int) -> None:
    """Remove checkpoints that are neither among the last, nor the best, nor at a multiple of `keep_every` steps.

    One that was saved while updates were being left out doesn't count, and goes once a good one follows it.

    Args:
        folder: holds the checkpoints.
        keep_last: how many of the last to keep.
        keep_every: 0, or the multiple whose checkpoints stay.
        newest: the step just saved, or resumed from; later ones are leftovers of another life of the run, and neither
            count nor go.
    """
    remove_stale(folder)
    held = []
    for path in checkpoints(folder):
        try:
            held.append(open_checkpoint(path))
        except CheckpointError:
            continue  # not ours to judge, so not ours to remove
    for each in expendable(held, keep_last, keep_every, newest):
        remove_folder(each.path)


def expendable(held: Sequence[Checkpoint], keep_last: int, keep_every: int, newest: int) -> list[Checkpoint]:
    """Return which of a run's checkpoints, oldest first, are to go, as `prune` says."""
    held = [each for each in held if each.progress.step <= newest]
    good = [each for each in held if not each.progress.guard.in_a_row]
    measured = [each for each in good if each.progress.validation_loss is not None]
    best = min(measured, key=lambda each: each.progress.validation_loss or 0.0, default=None)
    going = [
        each
        for each in good[:-keep_last]
        if each is not best and not (keep_every and each.progress.step % keep_every == 0)
    ]
    # Saved while updates were being left out: no reason for a good one to go.
    return going + [each for each in held if each not in good and good and each.progress.step < good[-1].progress.step]
