"""JSON lines: a document a line, under a key."""

from collections.abc import Iterator
from pathlib import Path

from lost.errors import DataError
from lost.prepare.reading.base import Reader
from lost.prepare.reading.parts import Part, shares
from lost.prepare.reading.readers import clean, lines, no_text
from lost.utils.parsing import parse_object

_RANGES = 256  # of a file that isn't packed
_RANGE_BYTES = (1 << 8, 4 << 20)  # the least and the most


class JsonLines(Reader):
    """Files of JSON objects, one a line. A part that is no share begins and ends at bytes of the file."""

    suffixes = (".jsonl", ".ndjson")

    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        """Yield what the objects of the lines have under the key."""
        for where, line in lines(path, part):
            try:
                record = parse_object(line)
            except ValueError as error:
                raise DataError(f"{where}: not a JSON object ({error}); expected one object a line") from None
            if not isinstance(text := record.get(text_key), str):
                found = f"{type(text).__name__} there" if text_key in record else ", ".join(record)
                raise no_text(where, text_key, found)
            yield clean(text)

    def parts(self, path: Path, packed: bool) -> list[Part]:
        """Return ranges of bytes: where a line begins is found without what is before it."""
        if packed:
            return shares([(0, None)])
        size, (least, most) = path.stat().st_size, _RANGE_BYTES
        length = min(max(size // _RANGES, least), most)
        return [Part(begin, begin + length) for begin in range(0, size, length)]
