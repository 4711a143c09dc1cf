"""Which tasks of lm-evaluation-harness are meant by names, and their data."""

import difflib
import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lost.errors import DataError, LostError, NetworkError, StorageError
from lost.utils.hub import out_of_reach
from lost.utils.wording import listed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def load_tasks(names: Sequence[str], folder: Path | None) -> list[Any]:
    """Return what lm_eval's task manager loads by each name.

    Args:
        names: of tasks, groups or tags, with wildcards.
        folder: of YAML files of tasks, searched besides lm_eval's own; None: only those.

    Raises:
        DataError: no such task or folder, or a task's data can't be loaded.
        NetworkError: it can't be downloaded.
        StorageError: there is no room for it.
    """
    manager = _manager(names, folder)
    return [_load(manager, name) for name in _expanded(manager, names, folder)]


@contextmanager
def silence() -> Iterator[None]:
    """Drop what lm_eval and its libraries print: progress bars, log lines, notes on standard output."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # its resampling would fork with a device open, which may hang
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def brief(error: BaseException) -> str:
    """Return an error of others in a line: its class, and the first line that it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """Return a task manager: of the user's own tasks alone where they suffice, as reading all takes a while."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    if not folder.is_dir():
        raise DataError(f"--include-path {folder} is not a folder; expected one with YAML files of tasks")
    own = TaskManager(include_path=str(folder), include_defaults=False)
    if not own.all_tasks:
        raise DataError(
            f"--include-path {folder} holds no task{_unread(own, folder)}; expected YAML files with `task: NAME`, as "
            "docs/evaluation.md shows"
        )
    return own if set(names) <= set(own.all_subtasks) else TaskManager(include_path=str(folder))


def _expanded(manager: Any, names: Sequence[str], folder: Path | None) -> list[str]:
    """Return the names with wildcards expanded."""
    expanded: dict[str, None] = {}
    for name in names:
        matching = manager.match_tasks([name])
        if not matching:
            near = difflib.get_close_matches(name, manager.all_tasks, 5)
            meant = f"did you mean {listed(near, 'or')}? " if near else ""
            whose = f"of lm-eval or of {folder}" if folder else "of lm-eval"
            raise DataError(
                f"--tasks {name}: no such task, group or tag{_unread(manager, folder) if folder else ''}; {meant}"
                f"expected a name {whose}; `lm_eval ls tasks` lists lm-eval's"
                + ("" if folder else ", --include-path FOLDER adds your own")
            )
        expanded |= dict.fromkeys(matching)
    return list(expanded)


def _unread(manager: Any, folder: Path) -> str:
    """Name the YAML files of a folder that lm_eval skipped, which it does silently."""
    read = {entry.yaml_path for entry in manager.task_index.values()}
    skipped = [str(path) for path in sorted(folder.rglob("*.yaml")) if path not in read]
    return f" (not read, or without a task: {', '.join(skipped[:5])})" if skipped else ""


def _load(manager: Any, name: str) -> Any:
    try:
        return manager.load([name])
    except Exception as error:  # from the hub, the data's library, or the task's own code
        raise _told(name, error) from error


def _told(name: str, error: Exception) -> LostError:
    """Return why a task can't be loaded: by the error, or the first of those behind it, that says who is to act."""
    for cause in _behind(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return StorageError(
                f"the data of task {name} can't be stored: {brief(cause)}; expected room in the cache of Hugging "
                "Face's libraries; make some, or have HF_HOME name a folder elsewhere"
            )
        if out_of_reach(cause):
            return NetworkError(
                f"the data of task {name} can't be downloaded: {brief(cause)}; expected a network and a hub that "
                "answers; give the same command again when there are"
            )
    return DataError(
        f"task {name} can't be loaded: {brief(error)}; expected a task that lm-eval {version('lm_eval')} can run, "
        "whose data can be read; correct its YAML, or choose another"
    )


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
