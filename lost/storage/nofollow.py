"""Opening regular files only: no link is followed, no pipe or device read.

The content of a run folder, a prepared set or an unfinished folder may come from a stranger: a link in it, if followed,
could lead reads, writes and removals anywhere on this machine.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

DOCUMENT_BYTES = 1 << 26  # the longest JSON document that is read: no manifest comes near it
_LINK = "it is a link, and links are not followed here; replace it by the file itself"


def open_read(path: Path, follow: bool = False) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        path: the file.
        follow: whether it may be a link, as where the user named it.

    Raises:
        OSError: it can't be opened, or is a link, a folder, a pipe or a device.
    """
    return os.fdopen(_opened(path, os.O_RDONLY, follow), "rb")


def open_update(path: Path) -> io.FileIO:
    """Open a regular file for reading and writing in place, unbuffered; it is created if necessary.

    Raises:
        OSError: it can't be opened, is no regular file, or has another name, under which the writes would show too.
    """
    handle = _opened(path, os.O_RDWR | os.O_CREAT)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        reason = "it has another name (a hard link), and writes would change that too; replace it by a copy"
        raise OSError(errno.EMLINK, reason, str(path))
    return os.fdopen(handle, "r+b", buffering=0)


def open_new(path: Path) -> io.BufferedWriter:
    """Open a new file for writing, replacing whatever has its name.

    Raises:
        OSError: it can't be created.
    """
    remove(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def write_new(path: Path, content: bytes) -> None:
    """Write a new file, replacing whatever has its name.

    Raises:
        OSError: it can't be written.
    """
    with open_new(path) as file:
        file.write(content)


def read_bytes(path: Path, limit: int | None = None, follow: bool = False) -> bytes:
    """Read a regular file whole.

    Args:
        path: the file.
        limit: the most bytes it may have; None: unlimited.
        follow: as in `open_read`.

    Raises:
        OSError: it can't be read, is no regular file, or is longer.
    """
    with open_read(path, follow) as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EOVERFLOW, f"it is longer than {limit / 2**20:,.0f} MiB", str(path))
        return file.read()


def read_inside(path: Path, folder: Path, limit: int | None = None) -> bytes:
    """Read a file of another tool's folder, as `read_bytes` does; it may be a link within the folder.

    Raises:
        OSError: as `read_bytes`, or the link leads out of the folder.
    """
    check_inside(path, folder)
    return read_bytes(path, limit, follow=True)


def check_inside(path: Path, folder: Path) -> None:
    """Check that a file, if it exists, is a regular one inside another tool's folder, also through links.

    The hub's cache is such a folder: its snapshots are links to the blobs beside them, which count as inside.

    Raises:
        OSError: it is elsewhere, or no regular file.
    """
    target, home = resolved(path), resolved(folder)
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not target.is_relative_to(home) and target.parent != blobs:
        raise OSError(errno.ELOOP, "it is a link out of its folder, which is not followed", str(path))
    with suppress(FileNotFoundError):
        open_read(path, follow=True).close()


def resolved(path: Path) -> Path:
    """Return a path without links; of a link that leads in a circle, or nowhere, as far as it leads."""
    return Path(os.path.realpath(path))  # Path.resolve fails on a circle


def is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path is one of these files or folders, or leads into one, by whatever links."""
    return any(resolved(path).is_relative_to(resolved(folder)) for folder in folders)


def check_name(name: str) -> str:
    """Check that a text that a document holds can be a file's name or path, and return it.

    Raises:
        ValueError: no file can be named so.
    """
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise ValueError(f"{name!r:.200} can't be the name of a file")
    return name


def check_updatable(path: Path) -> None:
    """Check, without writing, that `open_update` would open a file, if it exists.

    Raises:
        OSError: it wouldn't.
    """
    if os.path.lexists(path):
        open_update(path).close()


def check_folder(path: Path) -> None:
    """Check that whatever has a folder's name, if anything, is a folder and no link.

    Raises:
        OSError: it is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # neither it nor, in the second case, its parent exists
        return
    if not stat.S_ISDIR(mode):
        reason = _LINK.replace("file", "folder") if stat.S_ISLNK(mode) else "it is not a folder"
        raise OSError(errno.ENOTDIR, reason, str(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def folder_within(path: Path) -> Path | None:
    """Return a folder in a folder, such as one that a user put there; None: there is none."""
    return next((each for each in path.iterdir() if is_folder(each)), None) if path.is_dir() else None


def remove(path: Path) -> None:
    """Remove a file, a link itself, or a folder with its contents, as far as the system permits."""
    if is_folder(path):
        shutil.rmtree(path, ignore_errors=True)  # follows no links either
    else:
        with suppress(OSError):
            os.unlink(path)


def _opened(path: Path, flags: int, follow: bool = False) -> int:
    """Open a regular file. Non-blocking: opening a pipe would wait for its writer."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW), 0o666)
    except OSError as error:
        if not follow and os.path.islink(path):
            raise OSError(errno.ELOOP, _LINK, str(path)) from None
        raise error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file; replace it by one", str(path))
    return handle
