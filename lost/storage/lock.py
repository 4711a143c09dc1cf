"""The lock of a run folder, which admits one job; the system releases it however its holder ends."""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from lost.errors import RunBusyError, StorageError
from lost.storage.files import LOCK, is_named, storage
from lost.storage.flock import taken
from lost.storage.nofollow import open_read, open_update
from lost.utils.addresses import without_userinfo
from lost.utils.parsing import parse_json

_MAX_BYTES = 1 << 16  # of another job's description
_TIMEOUT = 5.0  # seconds; workers whose launcher was killed need one or two to notice


@contextmanager
def locked(folder: Path, warn: Callable[[str], None], timeout: float = _TIMEOUT) -> Iterator[str]:
    """Hold the lock of a run folder, which is created if necessary; yield its unique description of this job.

    The file stays: removing it would let two jobs lock two files of the same name.

    Args:
        folder: of the run.
        warn: called if the file system doesn't support locks.
        timeout: seconds to wait for another job that is about to end.

    Raises:
        RunBusyError: another job holds it; the message names it.
        StorageError: the folder can't be written to.
    """
    with ExitStack() as opened:
        file = opened.enter_context(_open(folder))
        deadline = time.monotonic() + timeout
        while not (_taken(file.fileno(), folder, warn) and is_named(file.fileno(), folder / LOCK)):
            if time.monotonic() > deadline:
                raise _busy(folder, _described(file))
            time.sleep(0.1)
            if not is_named(file.fileno(), folder / LOCK):  # the folder was renamed, as when it is finished
                file = opened.enter_context(_open(folder))
        job = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%FT%T%z"),
        }
        text = json.dumps({**job, "clock": time.time_ns(), "command": " ".join(map(without_userinfo, sys.argv))})
        with storage(folder / LOCK):
            file.truncate(0)
            file.seek(0)
            file.write(text.encode())
            os.fsync(file.fileno())  # other machines read it (`lost.training.run_dir.check_shared_dir`)
        yield text


def check_free(folder: Path) -> None:
    """Check, without writing, that no job holds the lock of a run folder.

    Raises:
        RunBusyError: one does; the message names it.
    """
    if job := holder(folder):
        raise _busy(folder, job)


def holder(folder: Path) -> str | None:
    """Describe the job that holds the lock of a run folder; None: there is none, or the system can't tell."""
    try:
        file = open_read(folder / LOCK)
    except OSError:
        return None
    with file:
        try:
            # A shared lock, briefly: on network shares a file opened for reading can't be locked otherwise.
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(file)
        except OSError:
            return None
    return None


def _busy(folder: Path, job: str) -> RunBusyError:
    return RunBusyError(
        f"{folder} is in use by {job}; expected one job per run folder; wait for it, stop it, or choose another --out"
    )


def _open(folder: Path) -> BinaryIO:
    if os.path.lexists(folder) and not folder.is_dir():
        raise StorageError(f"{folder} is no folder, but a file, or a link that leads nowhere; choose another")
    with storage(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        return open_update(folder / LOCK)


def _taken(handle: int, folder: Path, warn: Callable[[str], None]) -> bool:
    found = taken(handle)
    if found is None:
        warn(f"the file system of {folder} has no locks: nothing keeps a second job from writing there too")
    return found is not False


def _described(file: BinaryIO) -> str:
    try:
        file.seek(0)
        job = parse_json(file.read(_MAX_BYTES))
        return f"process {job['pid']} on {job['host']}, started {job['since']} ({job['command']})"
    except (ValueError, KeyError, TypeError):
        return "another job"
