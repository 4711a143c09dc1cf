"""Files of a prepared set, read piece by piece: a shard that changes, or goes away, while a run reads it is noticed.

They are read by offset, not mapped into memory: of a mapped file that is cut short, reading the rest would end the
process without a word (SIGBUS).
"""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from lost.errors import DataError
from lost.storage.nofollow import open_read

_OPEN = 64  # files of a process that are kept open: a quarter of what a Mac gives it, where nothing raises that
_reading = Lock()  # a thread reads ahead, and what is open belongs to all
_opened: "OrderedDict[ShardFile, io.BufferedReader]" = OrderedDict()  # the one read last is the last


@dataclass(eq=False)
class ShardFile:
    """A file as `dataset.json` describes it: its size checked when it is opened, its bytes once it has changed since.

    Attributes:
        path: of the file.
        size: in bytes.
        sha256: of its content.

    Raises:
        DataError: it is missing, can't be read, or has another size.
    """

    path: Path
    size: int
    sha256: str
    _stamp: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        with _reading:
            self._open()

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes [offset, offset + length).

        Raises:
            DataError: they can't be read, or the file isn't any more what it was.
        """
        try:
            with _reading:
                handle = self._open()
                content = os.pread(handle, length, offset)
                while len(content) < length:
                    if not (more := os.pread(handle, length - len(content), offset + len(content))):
                        break
                    content += more
        except OSError as error:
            raise DataError(
                f"{self.path} can't be read: {error.strerror}; expected a prepared set; restore it"
            ) from None
        if len(content) < length:
            raise self._changed("was cut short")
        return content

    def _open(self) -> int:
        """Return a handle of the file, once it is known to be what was described."""
        file = _opened.pop(self, None) or self._opened_anew()
        _opened[self] = file
        status = os.fstat(file.fileno())
        if (stamp := (status.st_size, status.st_mtime_ns)) != self._stamp:
            if status.st_size != self.size:
                raise self._changed(f"is {status.st_size} bytes long") if self._stamp else self._unlike(status.st_size)
            if self._stamp:
                self._check(file)
            self._stamp = stamp
        return file.fileno()

    def _opened_anew(self) -> io.BufferedReader:
        while len(_opened) >= _OPEN:
            _opened.popitem(last=False)[1].close()
        try:
            return open_read(self.path)
        except FileNotFoundError:
            raise self._unlike(None) from None
        except OSError as error:
            raise DataError(
                f"{self.path} can't be read: {error.strerror}; expected a file of a prepared set; restore it, or "
                "prepare the data again"
            ) from None

    def _check(self, file: io.BufferedReader) -> None:
        """See that a file that was written to, or replaced, still holds the same."""
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
            raise self._changed("no longer holds what was prepared")

    def _unlike(self, size: int | None) -> DataError:
        state = "missing" if size is None else f"{size} bytes long"
        return DataError(f"{self.path} is {state}; expected {self.size} bytes; prepare the data again")

    def _changed(self, how: str) -> DataError:
        return DataError(
            f"{self.path} {how}: it was changed while it was being read; expected {self.size} bytes as they were "
            "prepared; restore it, or prepare the data again, and start again: what was saved before is intact"
        )


class Row(Protocol):
    """Numbers in a row, of which pieces are read: an array in memory is one."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, piece: slice, /) -> np.ndarray:
        """Return those from `piece.start` to `piece.stop`, fewer at the end."""


@dataclass(frozen=True)
class Shard:
    """Numbers of one type in a file."""

    file: ShardFile = field(repr=False)
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        """Return how many there are."""
        return self.file.size // self.dtype.itemsize

    def __getitem__(self, piece: slice) -> np.ndarray:
        """Read some of them.

        Raises:
            DataError: the file can't be read, or isn't any more what it was.
        """
        start, stop, _ = piece.indices(len(self))
        width = self.dtype.itemsize
        return np.frombuffer(self.file.read(start * width, (stop - start) * width), self.dtype)


def open_shard(folder: Path, entry: Mapping[str, Any], dtype: np.dtype[Any]) -> Shard:
    """Open a file that an entry of `dataset.json` describes, without reading it.

    Raises:
        DataError: the file is missing, shortened, or no regular one.
    """
    return Shard(ShardFile(folder / entry["name"], entry["size"], entry["sha256"]), dtype)
