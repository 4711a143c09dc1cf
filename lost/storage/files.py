"""Atomic writes: a crash at any moment leaves either the old state or the new one."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from lost.errors import RunBusyError, StorageError
from lost.storage.failpoints import failpoint
from lost.storage.flock import taken
from lost.storage.nofollow import DOCUMENT_BYTES, is_folder, open_read, read_bytes, remove, resolved, write_new
from lost.utils.parsing import parse_object

LOCK = ".lock"  # in a folder that one job at a time fills
_PARTIAL = ".partial-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Errors that only a defect of ours causes, an invalid handle or buffer. All others come from the disk, or a share.
_DEFECTS = {None, errno.EBADF, errno.EFAULT, errno.ESPIPE, errno.ENOTTY}


@contextmanager
def atomic_dir(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` on success and disappears on failure.

    Every file in it is flushed to disk before the rename. What an earlier crash left behind is removed first. With
    `replace`, an existing folder is renamed away at the last moment; between the two renames there is none.

    Raises:
        RunBusyError: another command is writing there.
        StorageError: the disk refused, or another command's work is there that it would go on with.
    """
    with _held(path) as partial:
        try:
            with storage(path):
                yield partial
            publish(partial, path, replace)
        except BaseException:
            remove(partial)
            raise


@contextmanager
def _held(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that one command at a time has.

    The lock is the folder's own, so that none is left behind, nor does one move along. Where folders can't be locked,
    as on many network shares, nothing keeps a second command away.
    """
    partial = _free_partial(path)
    with storage(path):
        if not is_folder(partial):
            remove(partial)
        partial.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with storage(path):
            free = taken(handle) is not False and is_named(handle, partial)  # else it was just finished, or given up
        if not free:
            raise RunBusyError(
                f"{path} is being written by another command; expected one at a time; wait for it, stop it, or choose "
                "another folder"
            )
        with storage(path):
            _empty(partial)
        yield partial
    finally:
        os.close(handle)


def is_named(handle: int, path: Path) -> bool:
    """Return whether an open file or folder still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    """Remove what is in a folder.

    Raises:
        OSError: something can't be removed.
    """
    for each in folder.iterdir():
        remove(each)
    if any(folder.iterdir()):
        raise OSError(errno.ENOTEMPTY, "what an earlier command left there can't be removed", str(folder))


def begin_dir(path: Path) -> Path:
    """Make an empty folder beside `path` that is to become it; what an earlier crash left behind is removed.

    Nothing keeps another command from it: the run's lock does.

    Raises:
        StorageError: the disk refused, or another command's work is there that it would go on with.
    """
    partial = _free_partial(path)
    remove(partial)
    with storage(path):
        partial.mkdir(parents=True)
    return partial


def _free_partial(path: Path) -> Path:
    partial = partial_folder(path)
    if _resumable(partial):
        raise StorageError(
            f"{partial} holds what `lost prepare` or `lost teach` began, and would go on with; expected nothing "
            "there; name another folder, or remove it"
        )
    return partial


def partial_folder(path: Path) -> Path:
    """Return the path of a folder until it is finished: beside `path`.

    Raises:
        StorageError: nothing can be beside it.
    """
    path = resolved(path)  # a link may lead to another disk
    if path.is_mount():
        raise StorageError(f"{path} is a mount point, which can't be replaced; name a folder inside it")
    return path.with_name(f"{_PARTIAL}{path.name}")


def publish(partial: Path, path: Path, replace: bool = False) -> None:
    """Flush a folder from `begin_dir` to disk, and rename it to `path`.

    Raises:
        StorageError: the disk refused.
    """
    path = resolved(path)
    with storage(path):
        for file in sorted(partial.rglob("*")):
            if not file.is_symlink():  # left there by another command, or a stranger
                flush(file)
        flush(partial)
        before = _renamed(path) if replace and path.exists() else None
        os.rename(partial, path)
        flush(path.parent)
        if before:
            remove(before)


def remove_folder(path: Path) -> None:
    """Remove a folder atomically: after a crash, all of it or nothing has its name."""
    gone = _renamed(path)
    failpoint("prune.renamed")
    remove(gone)  # what can't be removed now, such as an open file on a network share, is removed later


def _renamed(path: Path) -> Path:
    gone = path.with_name(f"{_PARTIAL}removed-{path.name}")
    remove(gone)
    os.rename(path, gone)
    return gone


def remove_stale(folder: Path) -> None:
    """Remove what interrupted writes and removals left behind in a folder."""
    for path in stale_temps(folder):
        remove(path)


def stale_temps(folder: Path) -> list[Path]:
    """Return the unfinished entries of a folder: being written now, or left by an interrupted write or removal.

    Not those that a command would go on with.
    """
    return sorted(path for path in folder.glob(f"{_PARTIAL}*") if not _resumable(path))


def _resumable(partial: Path) -> bool:
    """Whether an unfinished folder is kept for the command that began it."""
    return is_folder(partial) and os.path.lexists(partial / LOCK)


def replace_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically; what has its name, if only a link, is replaced."""
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    with storage(path):
        write_new(partial, content)
        flush(partial)
        os.replace(partial, path)
        flush(resolved(path.parent))  # a folder that the user names may be a link


def flush(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves the data in the drive's cache
        with suppress(OSError):  # unsupported on network shares and some drives, which only have fsync
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


class Seal(TypedDict):
    """The size of a file in bytes, and its SHA-256."""

    size: int
    sha256: str


def seal(content: bytes) -> Seal:
    """Return the seal of content that is about to be written."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def digest_error(path: Path, seal: Seal) -> str | None:
    """Return what is wrong with a sealed file, after reading all of it, or None."""
    try:
        with open_read(path) as file:
            if (size := os.fstat(file.fileno()).st_size) != seal["size"]:
                return f"is {size} bytes long instead of {seal['size']}"
            if hashlib.file_digest(file, "sha256").hexdigest() != seal["sha256"]:
                return "doesn't have the checksum it was written with"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    return None


def sealed_json(value: dict[str, Any]) -> bytes:
    """Return a JSON document with the checksum of its own content."""
    return (json.dumps({**value, "seal": _digest(value)}, indent=2, allow_nan=False) + "\n").encode()


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Read a document written by `sealed_json`.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON object, or its checksum is wrong.
    """
    value = parse_object(read_bytes(path, DOCUMENT_BYTES))
    if value.pop("seal", None) != _digest(value):
        raise ValueError("its content doesn't have the checksum it was written with")
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn a failed write into a StorageError; errors that only a defect can cause pass through."""
    try:
        yield
    except OSError as error:
        if error.errno in _DEFECTS:
            raise
        full = error.errno in _FULL
        raise StorageError(
            f"{path} could not be written: {error.strerror}{_free(path) if full else ''}. Nothing that was there "
            f"before is lost. {'Free some space' if full else 'Fix that'}, or choose another folder with --out, and "
            "run the same command again."
        ) from error


def _free(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(existing(path.parent)).free / 2**20:,.0f} MiB free there)"
    except OSError:  # a share that is gone
        return ""


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder around it that exists."""
    while not os.path.exists(path):  # Path.exists raises where a name is too long or a folder closed
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """Check, without writing, that something can be created in the folder `path`, which may not exist yet.

    Raises:
        StorageError: it can't.
    """
    where = existing(path)
    reason = errno.EACCES if where.is_dir() else errno.ENOTDIR
    if not where.is_dir() or not os.access(where, os.W_OK | os.X_OK):
        with storage(path):
            raise OSError(reason, os.strerror(reason))
