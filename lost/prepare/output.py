"""Output folder of `lost prepare`: locked, filled under another name, renamed once it is complete."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lost.data.dataset import DESCRIPTION
from lost.errors import DataError, InterruptedAtOnceError
from lost.prepare.resume import FILE as STATE
from lost.prepare.resume import PrepareState, read_state
from lost.storage.files import LOCK, partial_folder, publish, storage
from lost.storage.lock import locked
from lost.storage.nofollow import check_folder, folder_within, remove, resolved


class ProgressCallback(Protocol):
    """Is told where a phase stands: bytes done, bytes in all or 0 if that isn't known, and what they hold."""

    def __call__(self, phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        """Take note."""


def unseen(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
    """Show nothing."""


def unsaid(text: str) -> None:
    """Say nothing."""


@contextmanager
def prepared_set(
    out: Path, sources: Sequence[Path], arguments: dict[str, Any], overwrite: bool, log: Callable[[str], None]
) -> Iterator[tuple[Path, PrepareState | None]]:
    """Yield the folder to fill, and the state to resume from; None: it is empty. Then give it its name.

    Where filling it fails, what it holds stays as long as it can be resumed from.

    Args:
        out: the folder that is wanted.
        sources: files and folders that are read, which it must not replace.
        arguments: all that decides the result: a folder that others began to fill is refused.
        overwrite: whether a set that is there, and the beginning of another, may go.
        log: told what a user should know.

    Raises:
        DataError: something else is there, or a set, or the beginning of another, and `overwrite` isn't given.
        InterruptedAtOnceError: by the keyboard; it says whether something is kept.
        RunBusyError: another job fills it.
        StorageError: the disk refused.
    """
    check_output(out, sources, overwrite)
    partial = partial_folder(out)
    with storage(partial):
        check_folder(partial)  # a link or a file of its name is neither followed nor removed
    with storage(out), locked(partial, log):
        state = read_state(partial, arguments, overwrite)
        try:
            check_output(out, sources, overwrite)  # again: another command may just have made it
            if state is None:
                _empty(partial)
            yield partial, state
            publish(partial, out, overwrite)  # with its state: until then it can be resumed
            for name in (STATE, LOCK):
                remove(out / name)
        except BaseException as error:
            kept = (partial / STATE).exists() and not isinstance(error, DataError)
            if not kept:
                remove(partial)  # nothing to resume from
            if isinstance(error, KeyboardInterrupt):
                then = " to resume" if kept else ""
                raise InterruptedAtOnceError(f"interrupted; run the same command again{then}") from None
            raise


def check_output(out: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """See that a prepared set may be made at `out`.

    Raises:
        DataError: something else is there, or a set and `overwrite` is not given, or it would replace a source.
    """
    target = resolved(out)
    for source in map(resolved, sources):
        if target == source or target in source.parents:
            raise DataError(f"--out {out} would replace the text in {source}; choose another folder")
    if out.is_dir() and not any(out.iterdir()):
        return  # an empty folder is renamed over
    if out.exists() and not (out / DESCRIPTION).exists():
        raise DataError(f"--out {out} exists and is not a prepared set; choose another folder")
    if out.exists() and not overwrite:
        raise DataError(f"--out {out} already holds a prepared set; choose another folder, or add --overwrite")
    if within := folder_within(out):
        raise DataError(
            f"--out {out} holds the folder {within.name}, which would go with it; move it, or choose another"
        )


def _empty(partial: Path) -> None:
    """Remove what another command left in a folder whose lock is held."""
    for path in partial.iterdir():
        if path.name != LOCK:
            remove(path)
