"""Files opened as what they must be: regular ones, where they seem to be. No link is followed, no pipe or device read.

What stands in a run folder, a prepared set or an unfinished folder may come from a stranger: followed, a link in it
would lead reads, writes and removals anywhere on this machine.
"""

import errno
import io
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

DOCUMENT_BYTES = 1 << 26  # the longest JSON document that is read whole: no manifest comes near it
_LINK = "it is a link, and links are not followed here; put the file itself in its place"


def open_read(path: Path, follow: bool = False) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        path: the file.
        follow: whether it may be a link: where the user named it.

    Raises:
        OSError: it can't be opened, or is a link, a folder, a pipe or a device.
    """
    return os.fdopen(_opened(path, os.O_RDONLY, follow), "rb")


def open_update(path: Path) -> io.FileIO:
    """Open a regular file for reading and writing, unbuffered, where it stands; it is made if need be.

    Raises:
        OSError: it can't be opened, is no regular file, or has another name elsewhere, where the writes would show too.
    """
    handle = _opened(path, os.O_RDWR | os.O_CREAT)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        reason = "it has another name (a hard link), and writes would reach that too; put a copy in its place"
        raise OSError(errno.EMLINK, reason, str(path))
    return os.fdopen(handle, "r+b", buffering=0)


def open_new(path: Path) -> io.BufferedWriter:
    """Open an empty file for writing, in the place of whatever has its name.

    Raises:
        OSError: it can't be made.
    """
    remove(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def write_new(path: Path, content: bytes) -> None:
    """Write a file in the place of whatever has its name.

    Raises:
        OSError: it can't be written.
    """
    with open_new(path) as file:
        file.write(content)


def read_bytes(path: Path, limit: int | None = None, follow: bool = False) -> bytes:
    """Read a regular file whole.

    Args:
        path: the file.
        limit: the most bytes it may have; None: any number.
        follow: as in `open_read`.

    Raises:
        OSError: it can't be read, is no regular file, or is longer.
    """
    with open_read(path, follow) as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is longer than {limit / 2**20:,.0f} MiB", str(path))
        return file.read()


def read_inside(path: Path, folder: Path, limit: int | None = None) -> bytes:
    """Read a file of another tool's folder, as `read_bytes` does; it may be a link, where that stays inside.

    Raises:
        OSError: as `read_bytes`, or the link leads out of the folder.
    """
    check_inside(path, folder)
    return read_bytes(path, limit, follow=True)


def check_inside(path: Path, folder: Path) -> None:
    """See that a file, if it is there, is a regular one inside a folder of another tool, by links or without.

    The hub's cache is such a folder: its snapshots are links to the blobs beside them, and these count as inside.

    Raises:
        OSError: it is elsewhere, or no regular file.
    """
    target, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not target.is_relative_to(home) and target.parent != blobs:
        raise OSError(errno.ELOOP, "it is a link out of its folder, and those are not followed", str(path))
    with suppress(FileNotFoundError):
        open_read(path, follow=True).close()


def check_updatable(path: Path) -> None:
    """See, without writing, that `open_update` would open a file, as far as it is there.

    Raises:
        OSError: it wouldn't.
    """
    if os.path.lexists(path):
        open_update(path).close()


def check_folder(path: Path) -> None:
    """See that a folder, if anything has its name, is one and no link.

    Raises:
        OSError: it is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # it isn't there; nor, in the second case, what would be around it
        return
    if not stat.S_ISDIR(mode):
        reason = _LINK.replace("file", "folder") if stat.S_ISLNK(mode) else "it is no folder"
        raise OSError(errno.ENOTDIR, reason, str(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, a link itself, or a folder with all that is in it, as far as the system lets it."""
    if is_folder(path):
        shutil.rmtree(path, ignore_errors=True)  # which follows no link either
    else:
        with suppress(OSError):
            os.unlink(path)


def _opened(path: Path, flags: int, follow: bool = False) -> int:
    """Open a regular file. Not blocking: opening a pipe would wait for whoever writes to it."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW), 0o666)
    except OSError as error:
        if not follow and os.path.islink(path):
            raise OSError(errno.ELOOP, _LINK, str(path)) from None
        raise error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file; put one in its place", str(path))
    return handle
