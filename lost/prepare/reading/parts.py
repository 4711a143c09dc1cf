"""Parts of files, each read alone: a sample is spread over the text, and the rest stays unread where the format allows.

Row groups of parquet and lines in a range of bytes are found without what is before them. A packed file is unpacked
from its beginning, so its parts are a 64th of its documents each, every 64th, and each takes a pass over all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from lost.storage.nofollow import open_read
from lost.utils.extras import need

JSON_LINES = (".jsonl", ".ndjson")
_PARTS = 64  # of a file that can't be taken apart by bytes or row groups
_RANGES = 256  # of a file of JSON lines
_RANGE_BYTES = (1 << 8, 4 << 20)  # the least and the most

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A part of a file's documents.

    Attributes:
        begin: the first row group of a parquet file, or the byte of JSON lines at or after which a line must begin.
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
    packed = path.suffix in (".gz", ".zst")
    format = Path(path.stem).suffix if packed else path.suffix
    if format == ".parquet":
        groups = _row_groups(path)
        return _shares([(group, group + 1) for group in range(groups)], -(-_PARTS // max(groups, 1)))
    if format in JSON_LINES and packed:
        return _shares([(0, None)], _PARTS)
    if format in JSON_LINES:
        size, (least, most) = path.stat().st_size, _RANGE_BYTES
        length = min(max(size // _RANGES, least), most)
        return [Part(begin, begin + length) for begin in range(0, size, length)]
    return [WHOLE]


def _shares(ranges: list[tuple[int, int | None]], shares: int) -> list[Part]:
    return [Part(begin, end, number, shares) for begin, end in ranges for number in range(shares)]


def _row_groups(path: Path) -> int:
    """Return how many row groups a parquet file has."""
    arrow = need("pyarrow", "data", f"reading {path}")
    parquet = need("pyarrow.parquet", "data", f"reading {path}")
    try:
        with open_read(path, follow=True) as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
            return int(file.num_row_groups)
    except arrow.ArrowException as error:
        raise OSError(str(error)) from None
