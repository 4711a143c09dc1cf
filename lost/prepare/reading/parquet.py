"""Parquet: a document a row, in a column."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lost.errors import DataError
from lost.prepare.reading.base import Reader
from lost.prepare.reading.parts import Part, shares
from lost.prepare.reading.readers import no_text
from lost.storage.nofollow import open_read
from lost.storage.unpack import Expansion
from lost.utils.extras import need

_ROWS = 16  # that are in memory at once: a page of a few bytes can hold many rows of many megabytes


class Parquet(Reader):
    """Parquet files. A part begins and ends at row groups."""

    suffixes = (".parquet",)

    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        """Yield what the rows have in the column; an empty text, where that is null."""
        arrow = need("pyarrow", "data", f"reading {path}")
        parquet = need("pyarrow.parquet", "data", f"reading {path}")
        expansion = Expansion(path)
        try:
            with open_read(path, follow=True) as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
                names, kinds = file.schema_arrow.names, file.schema_arrow.types
                if text_key not in names:
                    raise no_text(str(path), text_key, ", ".join(names))
                kind, columns = kinds[names.index(text_key)], _columns(file.metadata, text_key)
                if not columns or arrow.types.is_temporal(kind):  # not every date is one that Python has
                    raise no_text(str(path), text_key, f"{kind} there")
                groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
                _check_sizes(path, file.metadata, columns, groups)
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

    def parts(self, path: Path, packed: bool) -> list[Part]:
        """Return row groups, of which each is found without those before it."""
        arrow = need("pyarrow", "data", f"reading {path}")
        parquet = need("pyarrow.parquet", "data", f"reading {path}")
        try:
            with open_read(path, follow=True) as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
                return shares([(group, group + 1) for group in range(file.num_row_groups)])
        except arrow.ArrowException as error:
            raise OSError(str(error)) from None


def _columns(metadata: Any, text_key: str) -> list[int]:
    """Return the numbers of the columns of a name that have one value a row.

    Those of lists aren't even read: a few bytes can say a list of a billion texts, which is in memory whole.
    """
    columns = [(number, metadata.schema.column(number)) for number in range(metadata.num_columns)]
    return [number for number, each in columns if each.path == text_key and not each.max_repetition_level]


def _check_sizes(path: Path, metadata: Any, columns: list[int], groups: range) -> None:
    """See that no row group unpacks to far more than the file holds: it is read before its texts are counted."""
    for group in map(metadata.row_group, groups):
        Expansion(path).add(sum(group.column(number).total_uncompressed_size for number in columns))


def _rows(file: Any, text_key: str, groups: range) -> Iterator[Any]:
    """Yield a column of some row groups, one text at a time: many rows may share a long one."""
    for batch in file.iter_batches(_ROWS, row_groups=groups, columns=[text_key]):
        yield from (each.as_py() for each in batch.column(0))
