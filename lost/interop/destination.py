"""Where a conversion may write: nothing of another's is replaced, nor anything that lies beside what we wrote."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

from lost.checkpoint import CHECKPOINTS, MANIFEST, open_checkpoint
from lost.checkpoint.store import checkpoint_around, is_checkpoint_name
from lost.errors import CheckpointError
from lost.storage.nofollow import folder_within, resolved


def check_destination(path: Path, source: Path, overwrite: bool) -> None:
    """Refuse a path that exists, unless it is a checkpoint to be replaced, and one that a run would take for its own.

    Raises:
        CheckpointError: something is at `path`, or around it, or it is a checkpoint whose manifest is damaged, so that
            nothing says what belongs to it.
    """
    if resolved(path) == resolved(source):
        raise CheckpointError(f"{path} is the source itself; expected another folder; choose one")
    around = resolved(path).parent
    if is_checkpoint_name(path.name) and around.name == CHECKPOINTS and (around.parent / "config.yaml").exists():
        raise CheckpointError(
            f"{path} is named as a checkpoint of the run {around.parent}, which would go on from it; expected another "
            "name, or a folder elsewhere; choose one"
        )
    if path.exists() and not (overwrite and (path / MANIFEST).exists()):
        raise CheckpointError(
            f"{path} already exists{' and is not a checkpoint' if overwrite else ''}; expected a new folder; choose "
            f"another{'' if overwrite else ', or, to replace a checkpoint, add --overwrite'}"
        )
    _check_nothing_within(path)
    if path.exists():
        check_only(path, (MANIFEST, *map(escape, open_checkpoint(path).files)))


def _check_nothing_within(path: Path) -> None:
    """Refuse to replace a folder that holds others, the source perhaps: nothing that we write there has any.

    Raises:
        CheckpointError: it does, or `path` lies in a checkpoint itself.
    """
    if around := checkpoint_around(path):
        raise CheckpointError(f"{path} lies in the checkpoint {around}; expected a folder elsewhere; choose one")
    if within := folder_within(path):
        raise CheckpointError(
            f"{path} holds the folder {within.name}, which would go with it; expected none; move it, or choose another"
        )


def check_free(path: Path, overwrite: bool, is_ours: Callable[[Path], bool], names: Iterable[str]) -> None:
    """Refuse a path that exists, unless it is an export to be replaced.

    Args:
        path: where an export is to be.
        overwrite: whether an earlier one may be there.
        is_ours: says whether a folder is one; it may raise OSError or ValueError where it isn't.
        names: patterns of the files that one has.

    Raises:
        CheckpointError: something is at `path`.
    """
    _check_nothing_within(path)
    if not path.exists():
        return
    if not overwrite:
        raise CheckpointError(
            f"{path} already exists; expected a new folder; choose another, or, to replace an export, add --overwrite"
        )
    try:
        ours = is_ours(path)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise CheckpointError(
            f"{path} already exists and is not an export of this kind; expected a new folder; choose another"
        )
    check_only(path, names)


def check_only(path: Path, names: Iterable[str]) -> None:
    """Refuse to replace a folder that also holds what we never wrote, which would go with it.

    Args:
        path: the folder.
        names: patterns of the files that it may have.

    Raises:
        CheckpointError: it holds another.
    """
    patterns = tuple(names)
    others = [each.name for each in path.iterdir() if not any(fnmatch(each.name, pattern) for pattern in patterns)]
    if others:
        raise CheckpointError(
            f"{path} holds {min(others)}, which would go with it; expected only what an earlier conversion wrote; move "
            "it, or choose another folder"
        )
