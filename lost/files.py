"""Writing so that a crash at any moment leaves either the old state or the new one, never half of one."""

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

from lost.errors import StorageError
from lost.failpoints import reach

_PARTIAL = ".partial-"
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
_REFUSED |= {errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOENT}  # a place where nothing can be written
_REFUSED |= {errno.EIO, errno.ESTALE, errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST}  # a failing disk, a share's moods


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` on success and disappears on failure.

    Every file in it is flushed to disk before the rename. What an earlier crash left is removed first. With `replace`,
    a folder that is already there makes way at the last moment; between the two renames there is none, never half of
    one.
    """
    partial = begin_folder(path)
    try:
        with storage(path):
            yield partial
        finish_folder(partial, path, replace)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def begin_folder(path: Path) -> Path:
    """Make an empty folder beside `path` that is to become it; what an earlier crash left there is removed.

    Raises:
        StorageError: the disk refused.
    """
    partial = partial_folder(path)
    shutil.rmtree(partial, ignore_errors=True)
    with storage(path):
        partial.mkdir(parents=True)
    return partial


def partial_folder(path: Path) -> Path:
    """Return where a folder stands until it is finished: beside `path`.

    Raises:
        StorageError: nothing can be beside it.
    """
    path = Path(os.path.realpath(path))  # where a link leads: it may be another disk
    if path.is_mount():
        raise StorageError(f"{path} is a mount point, which can't be replaced whole; name a folder inside it")
    return path.with_name(f"{_PARTIAL}{path.name}")


def finish_folder(partial: Path, path: Path, replace: bool = False) -> None:
    """Give a folder from `begin_folder` its name, everything in it on disk.

    Raises:
        StorageError: the disk refused.
    """
    path = Path(os.path.realpath(path))
    with storage(path):
        for file in sorted(partial.rglob("*")):
            flush(file)
        flush(partial)
        before = _renamed(path) if replace and path.exists() else None
        os.rename(partial, path)
        flush(path.parent)
        if before:
            shutil.rmtree(before, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves all of it or nothing under its name."""
    gone = _renamed(path)
    reach("prune.renamed")
    shutil.rmtree(
        gone, ignore_errors=True
    )  # what can't be removed now, such as an open file on a share, is swept later


def _renamed(path: Path) -> Path:
    gone = path.with_name(f"{_PARTIAL}removed-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(path, gone)
    return gone


def sweep(folder: Path) -> None:
    """Remove what interrupted writes and removals left in a folder."""
    for path in leftovers(folder):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def leftovers(folder: Path) -> list[Path]:
    """Return what isn't finished in a folder: being written now, or left by an interrupted write or removal."""
    return sorted(folder.glob(f"{_PARTIAL}*"))


def replace_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    with storage(path):
        partial.write_text(text, encoding="utf-8")
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)


def flush(path: Path) -> None:
    """Have the system write a file or folder to disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone leaves the data in the drive's cache
            with suppress(OSError):  # network shares and some drives can't: fsync is what they have
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    finally:
        os.close(handle)


class Seal(TypedDict):
    """What a file must be: its size in bytes and its SHA-256."""

    size: int
    sha256: str


def seal(content: bytes) -> Seal:
    """Return the seal of what is about to be written."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def broken(path: Path, seal: Seal) -> str | None:
    """Say what is wrong with a sealed file, or None."""
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != seal["size"]:
        return f"is {size} bytes long instead of {seal['size']}"
    if checksum(path) != seal["sha256"]:
        return "doesn't have the checksum it was written with"
    return None


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed_json(value: dict[str, Any]) -> bytes:
    """Return a JSON document that carries the checksum of its own content."""
    return (json.dumps({**value, "seal": _digest(value)}, indent=2) + "\n").encode()


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Read a document written by `sealed_json`.

    Raises:
        OSError: it can't be read.
        ValueError: it is not JSON, or not what was sealed.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.pop("seal", None) != _digest(value):
        raise ValueError("its content doesn't have the checksum it was written with")
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn a refused write into a message; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        free = shutil.disk_usage(existing(path.parent)).free
        raise StorageError(
            f"{path} could not be written: {os.strerror(error.errno or 0)} ({free / 2**20:,.0f} MiB free there). "
            "Nothing that was there before is lost. Make room, or choose another folder with --out, and run the same "
            "command again."
        ) from error


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder around it that exists."""
    while not os.path.exists(path):  # Path.exists raises where a name is too long or a folder closed
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """See, without writing, that a file or folder can be made in the folder `path`, which may not exist yet.

    Raises:
        StorageError: it can't.
    """
    where = existing(path)
    reason = errno.EACCES if where.is_dir() else errno.ENOTDIR
    if not where.is_dir() or not os.access(where, os.W_OK | os.X_OK):
        with storage(path):
            raise OSError(reason, os.strerror(reason))
