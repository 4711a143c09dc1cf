"""One file of text, or a part of it: plain, JSON lines or parquet, the first two also compressed (.gz, .zst)."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lost.errors import DataError
from lost.prepare.reading.parts import JSON_LINES, WHOLE, Part
from lost.storage.nofollow import open_read
from lost.storage.unpack import Expansion, opened
from lost.utils.extras import need
from lost.utils.parsing import parse_object

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".parquet", ".gz", ".zst")
_CHUNK = 1 << 17
_LINE = 1 << 28  # bytes
_ROWS = 16  # of a parquet file that are in memory at once: a page of a few bytes can hold many rows of many megabytes


class NotTextError(Exception):
    """A file that doesn't hold UTF-8."""


def read(path: Path, text_key: str, part: Part = WHOLE) -> Iterator[str]:
    """Yield the documents of a file, those that aren't empty.

    Args:
        path: the file; its name says what it is.
        text_key: the field of a JSON line, or the column of a parquet file, that holds the text.
        part: of its documents.

    Raises:
        NotTextError: what should be plain text isn't.
        DataError: a damaged file, no text under the key.
        MissingPackageError: the package that reads it isn't installed.
        OSError: it can't be read.
    """
    format = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix
    try:
        if format == ".parquet":
            texts = _parquet(path, text_key, part)
        else:
            texts = _json_lines(path, text_key, part) if format in JSON_LINES else _text(path)
        yield from (text for text in texts if text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; expected a complete file; fetch it again") from None


def lines(path: Path, part: Part = WHOLE) -> Iterator[tuple[str, bytes]]:
    """Yield the lines of a file, or of a part of it, that aren't empty, each with where it stands.

    Raises:
        DataError: a line that is too long to be one.
        EOFError, gzip.BadGzipFile, zlib.error: it is packed, and damaged.
        OSError: it can't be read.
    """
    yield from part.share(_lines(path, part.begin, part.end))


def _lines(path: Path, begin: int, end: int | None) -> Iterator[tuple[str, bytes]]:
    with opened(path) as file:
        number, position = 0, begin
        if begin:
            file.seek(begin - 1)  # the rest of a line that began before, or the end of the one before
            position += len(file.readline(_LINE)) - 1
        while (end is None or position < end) and (line := file.readline(_LINE + 1)):
            number += 1
            where = f"{path}, byte {position}" if begin else f"{path}:{number}"
            position += len(line)
            if len(line) > _LINE:
                raise DataError(f"{where}: a line of more than {_LINE >> 20} MiB; expected one object a line; split it")
            if line.strip():
                yield where, line


def _text(path: Path) -> Iterator[str]:
    decoder, parts, position = codecs.getincrementaldecoder("utf-8")(), [], 0
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            if (nul := chunk.find(0)) >= 0:
                raise NotTextError(f"there is a NUL byte at {position + nul}")
            parts.append(_decoded(decoder, chunk, position))
            position += len(chunk)
    yield "".join([*parts, _decoded(decoder, b"", position)])


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, position: int) -> str:
    """Return the text of the bytes at a position; none at the end."""
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:  # its bytes begin with those that were held back
        wrong = position + len(chunk) - len(error.object) + error.start
        raise NotTextError(f"byte {wrong} is {error.object[error.start]:#04x}, which is not UTF-8") from None


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: JSON may name half a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_lines(path: Path, text_key: str, part: Part) -> Iterator[str]:
    for where, line in lines(path, part):
        try:
            record = parse_object(line)
        except ValueError as error:
            raise DataError(f"{where}: not a JSON object ({error}); expected one object a line") from None
        if not isinstance(text := record.get(text_key), str):
            raise no_text(where, text_key, f"{type(text).__name__} there" if text_key in record else ", ".join(record))
        yield clean(text)


def _parquet(path: Path, text_key: str, part: Part) -> Iterator[str]:
    arrow = need("pyarrow", "data", f"reading {path}")
    parquet = need("pyarrow.parquet", "data", f"reading {path}")
    expansion = Expansion(path)
    try:
        with open_read(path, follow=True) as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
            if text_key not in file.schema_arrow.names:
                raise no_text(str(path), text_key, ", ".join(file.schema_arrow.names))
            groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
            _check_sizes(path, file.metadata, text_key, groups)
            for text in part.share(_rows(file, text_key, groups)):
                if not isinstance(text, str | None):
                    raise no_text(str(path), text_key, f"{type(text).__name__} there")
                expansion.add(len(text or ""))
                yield text or ""
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's: those of the library are about what is in the file
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {reason}; expected a parquet file; fetch it again") from None


def _check_sizes(path: Path, metadata: Any, text_key: str, groups: range) -> None:
    """See that no row group unpacks to far more than the file holds: it is read before its texts are counted."""
    columns = [number for number in range(metadata.num_columns) if metadata.schema.column(number).path == text_key]
    for group in map(metadata.row_group, groups):
        Expansion(path).add(sum(group.column(number).total_uncompressed_size for number in columns))


def _rows(file: Any, text_key: str, groups: range) -> Iterator[Any]:
    """Yield a column of some row groups, one text at a time: many rows may share a long one."""
    for batch in file.iter_batches(_ROWS, row_groups=groups, columns=[text_key]):
        yield from (each.as_py() for each in batch.column(0))


def no_text(where: str, text_key: str, keys: str) -> DataError:
    """Return the refusal of a record."""
    named = {key.strip() for key in keys.split(",")}
    example = ", or, for examples to fine-tune on, add --examples" if named & {"messages", "prompt"} else ""
    found = " ".join(keys[:200].split())  # in one line: a stranger's key may have several
    return DataError(f"{where}: no text under {text_key!r} (found: {found}); name the field with --text-key{example}")
