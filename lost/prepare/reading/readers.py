"""One file of text, or a part of it, by the reader of its format; and what readers of several formats need."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from lost.errors import DataError
from lost.prepare.reading.kinds import KINDS, format_of
from lost.prepare.reading.parts import WHOLE, Part
from lost.storage.unpack import opened

_LINE = 1 << 28  # bytes


class NotTextError(Exception):
    """A file that doesn't hold UTF-8."""


def read(path: Path, text_key: str, part: Part = WHOLE) -> Iterator[str]:
    """Yield the documents of a file, those that aren't empty.

    Args:
        path: the file; its name says what it is.
        text_key: the field, or column, that holds the text, where the format has some.
        part: of its documents.

    Raises:
        NotTextError: what should be plain text isn't.
        DataError: a damaged file, no text under the key.
        MissingPackageError: the package that reads it isn't installed.
        OSError: it can't be read.
    """
    try:
        yield from filter(None, KINDS[format_of(path)].documents(path, text_key, part))
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


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: JSON may name half a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def no_text(where: str, text_key: str, keys: str) -> DataError:
    """Return the refusal of a record."""
    named = {key.strip() for key in keys.split(",")}
    example = ", or, for examples to fine-tune on, add --examples" if named & {"messages", "prompt"} else ""
    found = " ".join(keys[:200].split())  # in one line: a stranger's key may have several
    return DataError(f"{where}: no text under {text_key!r} (found: {found}); name the field with --text-key{example}")
