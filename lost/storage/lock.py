"""One job a run folder: a lock that the system lets go of when its holder ends, however it ends."""

import errno
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

from lost.errors import RunBusyError
from lost.storage.files import storage
from lost.storage.nofollow import open_read, open_update
from lost.utils.parsing import parse_json

FILE = ".lock"
_LONGEST = 1 << 16  # bytes of what another job says of itself
_PATIENCE = 5.0  # seconds; workers whose launcher was killed take one or two to notice
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def locked(folder: Path, warn: Callable[[str], None], patience: float = _PATIENCE) -> Iterator[str]:
    """Hold the lock of a run folder, which is made if need be; yield what it says about this job, the same never twice.

    The file stays: removing it would let two jobs lock two files of one name.

    Args:
        folder: the run.
        warn: told where the file system knows no locks.
        patience: seconds to wait for another job that is about to end.

    Raises:
        RunBusyError: another job holds it, named.
        StorageError: the folder can't be written to.
    """
    with ExitStack() as opened:
        file = opened.enter_context(_open(folder))
        until = time.monotonic() + patience
        while not (_taken(file.fileno(), folder, warn) and _named(file.fileno(), folder)):
            if time.monotonic() > until:
                raise _busy(folder, _described(file))
            time.sleep(0.1)
            if not _named(file.fileno(), folder):  # the folder was moved, as one is that has become whole
                file = opened.enter_context(_open(folder))
        job = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%FT%T%z"),
        }
        text = json.dumps({**job, "clock": time.time_ns(), "command": " ".join(sys.argv)})
        with storage(folder / FILE):
            file.truncate(0)
            file.seek(0)
            file.write(text.encode())
            os.fsync(file.fileno())  # other machines read it (`lost.training.verify`)
        yield text


def check_free(folder: Path) -> None:
    """See, without writing, that no job holds the lock of a run folder.

    Raises:
        RunBusyError: one does, named.
    """
    if job := holder(folder):
        raise _busy(folder, job)


def holder(folder: Path) -> str | None:
    """Return the job that holds the lock of a run folder, in words; None: there is none, or the system can't tell."""
    try:
        file = open_read(folder / FILE)
    except OSError:
        return None
    with file:
        try:
            # Shared, and for a moment: a file opened for reading can't be locked otherwise on network shares.
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(file)
        except OSError:
            return None
    return None


def _busy(folder: Path, job: str) -> RunBusyError:
    return RunBusyError(
        f"{folder} is in use by {job}; expected one job a run folder; wait for it, stop it, or choose another --out"
    )


def _open(folder: Path) -> BinaryIO:
    with storage(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        return open_update(folder / FILE)


def _named(handle: int, folder: Path) -> bool:
    """Return whether an open file is still the folder's lock."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(folder / FILE))
    except FileNotFoundError:
        return False


def _taken(handle: int, folder: Path, warn: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warn(f"{folder} stands on a file system without locks: nothing keeps a second job from writing there too")
    return True


def _described(file: BinaryIO) -> str:
    try:
        file.seek(0)
        job = parse_json(file.read(_LONGEST))
        return f"process {job['pid']} on {job['host']}, started {job['since']} ({job['command']})"
    except (ValueError, KeyError, TypeError):
        return "another job"
