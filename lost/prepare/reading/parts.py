"""Parts of files, each read alone: a sample is spread over the text, and the rest stays unread where the format allows.

Row groups of parquet and lines in a range of bytes are found without what is before them. A packed file is unpacked
from its beginning, so its parts are a 64th of its documents each, every 64th, and each takes a pass over all of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from lost.prepare.reading.kinds import KINDS, format_of
from lost.storage.unpack import PACKED

_PARTS = 64  # of a file that can't be taken apart by ranges, or by few

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A part of a file's documents.

    Attributes:
        begin: the first of what its format counts: row groups of parquet; of JSON lines bytes, at or after which a line
            must begin.
        end: the one that isn't taken any more; None: all to the file's end.
        number: which of `of` equal shares of the documents there.
        of: how many shares there are.
    """

    begin: int = 0
    end: int | None = None
    number: int = 0
    of: int = 1

    def share(self, documents: Iterator[T]) -> Iterator[T]:
        """Yield the documents of this share: every `of`-th."""
        return islice(documents, self.number, None, self.of)


WHOLE = Part()


def parts(path: Path) -> list[Part]:
    """Return parts that together are a file, in its order.

    Raises:
        OSError: it can't be opened, or is damaged.
        MissingPackageError: the package that reads it isn't installed.
    """
    return KINDS[format_of(path)].parts(path, path.suffix in PACKED)


def shares(ranges: Sequence[tuple[int, int | None]]) -> list[Part]:
    """Return parts that together are these ranges of a file: each whole, or, where they are few, shares of each."""
    of = -(-_PARTS // max(len(ranges), 1))
    return [Part(begin, end, number, of) for begin, end in ranges for number in range(of)]
