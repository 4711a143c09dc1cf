"""Files that may be packed (.gz, .zst), unpacked while they are read, and only as far as text can be packed."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lost.errors import DataError
from lost.storage.nofollow import open_read
from lost.utils.extras import need

_CHUNK = 1 << 17
_ZST_CHUNK = 1 << 12  # packed bytes: a block of 4 can hold 128 KiB, so they unpack to 128 MiB at most
_RATIO = 250  # text packs to a tenth, tables to a hundredth; what is made to fill a memory, to a thousandth and less
_ALWAYS = 1 << 26  # bytes to which any file may unpack


class Expansion:
    """What a packed file has unpacked to so far.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, 0
        self._limit = max(_ALWAYS, _RATIO * path.stat().st_size)

    def add(self, size: int) -> None:
        """Count more bytes or characters.

        Raises:
            DataError: that is more than text packs.
        """
        self._size += size
        if self._size > self._limit:
            raise DataError(
                f"{self._path} unpacks to more than {_RATIO} times its size; expected text, which doesn't; don't trust "
                "it, or unpack it yourself"
            )


def opened(path: Path) -> BinaryIO:
    """Open a regular file to read, unpacked where its name says that it is packed.

    Reading it raises EOFError, `gzip.BadGzipFile` or `zlib.error` where it is damaged, DataError as `Expansion.add`.

    Raises:
        MissingPackageError: the package that unpacks it isn't installed.
        OSError: it can't be opened.
    """
    unpack = _UNPACK.get(path.suffix)
    return io.BufferedReader(_Chunks(unpack(path)), _CHUNK) if unpack else open_read(path, follow=True)


def _gz(path: Path) -> Iterator[bytes]:
    expansion = Expansion(path)
    with open_read(path, follow=True) as file, gzip.GzipFile(fileobj=file) as unpacked:
        while chunk := unpacked.read(_CHUNK):
            expansion.add(len(chunk))
            yield chunk


def _zst(path: Path) -> Iterator[bytes]:
    """Yield what is in a file of one frame or several; the library's own reader is silent where a frame is cut."""
    library = need("zstandard", "data", f"reading {path}")
    decompressor = library.ZstdDecompressor(max_window_size=1 << 31)
    expansion = Expansion(path)
    with open_read(path, follow=True) as file:
        frame, rest = None, b""
        while chunk := rest or file.read(_ZST_CHUNK):
            frame = frame or decompressor.decompressobj()
            try:
                unpacked = frame.decompress(chunk)
            except library.ZstdError as error:
                raise EOFError(error) from None
            expansion.add(len(unpacked))
            yield unpacked
            rest = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame:
        raise EOFError("it ends inside a zstd frame")


class _Chunks(io.RawIOBase):
    """A stream of bytes that come in chunks; closed, it ends what yields them."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while not self._left:
            if (chunk := next(self._chunks, None)) is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


_UNPACK = {".gz": _gz, ".zst": _zst}
PACKED = tuple(_UNPACK)
"""Suffixes of packed files, which follow that of the format."""
