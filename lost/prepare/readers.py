"""One file of text: plain, JSON lines or parquet, the first two also compressed (.gz, .zst)."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lost.errors import DataError
from lost.storage.nofollow import open_read
from lost.utils.extras import need
from lost.utils.parsing import parse_json

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".parquet", ".gz", ".zst")
_JSON_LINES = (".jsonl", ".ndjson")
_CHUNK = 1 << 17
_ROWS = 256  # of a parquet file that are in memory at once


class NotTextError(Exception):
    """A file that doesn't hold UTF-8."""


def read(path: Path, text_key: str) -> Iterator[str]:
    """Yield the documents of a file, those that aren't empty.

    Args:
        path: the file; its name says what it is.
        text_key: the field of a JSON line, or the column of a parquet file, that holds the text.

    Raises:
        NotTextError: what should be plain text isn't.
        DataError: a damaged file, no text under the key.
        MissingPackageError: the package that reads it isn't installed.
        OSError: it can't be read.
    """
    format = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix
    try:
        if format == ".parquet":
            texts = _parquet(path, text_key)
        else:
            texts = _json_lines(path, text_key) if format in _JSON_LINES else _text(path)
        yield from (text for text in texts if text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; expected a complete file; fetch it again") from None


def opened(path: Path) -> BinaryIO:
    """Open a file to read, unpacked where its name says that it is packed."""
    if path.suffix == ".zst":
        return io.BufferedReader(_Chunks(_zst(path)), _CHUNK)
    file = open_read(path, follow=True)
    return cast(BinaryIO, _Unpacked(file)) if path.suffix == ".gz" else file


def _zst(path: Path) -> Iterator[bytes]:
    """Yield what is in a file of one frame or several; the library's own reader is silent where a frame is cut."""
    library = need("zstandard", "data", f"reading {path}")
    decompressor = library.ZstdDecompressor(max_window_size=1 << 31)
    with open_read(path, follow=True) as file:
        frame, rest = None, b""
        while chunk := rest or file.read(_CHUNK):
            frame = frame or decompressor.decompressobj()
            try:
                yield frame.decompress(chunk)
            except library.ZstdError as error:
                raise EOFError(error) from None
            rest = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame:
        raise EOFError("it ends inside a zstd frame")


class _Unpacked(gzip.GzipFile):
    """A packed file, which is closed with what unpacks it."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


class _Chunks(io.RawIOBase):
    """A stream of bytes that come in chunks."""

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


def _text(path: Path) -> Iterator[str]:
    with opened(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotTextError(f"byte {error.start} is {content[error.start]:#04x}, which is not UTF-8") from None
    if "\0" in text:
        raise NotTextError(f"there is a NUL byte at {text.index(chr(0))}")
    yield text


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: JSON may name half a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_lines(path: Path, text_key: str) -> Iterator[str]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = parse_json(line)
            except ValueError as error:
                raise DataError(f"{where}: not a JSON object ({error}); expected one object a line") from None
            text = record.get(text_key) if isinstance(record, dict) else None
            if not isinstance(text, str):
                keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise no_text(where, text_key, keys)
            yield clean(text)


def _parquet(path: Path, text_key: str) -> Iterator[str]:
    arrow = need("pyarrow", "data", f"reading {path}")
    parquet = need("pyarrow.parquet", "data", f"reading {path}")
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            if text_key not in file.schema_arrow.names:
                raise no_text(str(path), text_key, ", ".join(file.schema_arrow.names))
            for batch in file.iter_batches(_ROWS, columns=[text_key]):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str | None):
                        raise no_text(str(path), text_key, f"{type(text).__name__} there")
                    yield text or ""
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's: those of the library are about what is in the file
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {reason}; expected a parquet file; fetch it again") from None


def no_text(where: str, text_key: str, keys: str) -> DataError:
    """Return the refusal of a record."""
    return DataError(f"{where}: no text under {text_key!r} (found: {keys}); name the field with --text-key")
