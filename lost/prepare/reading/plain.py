"""Plain text: a file is one document."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from lost.prepare.reading.base import Reader
from lost.prepare.reading.parts import Part
from lost.prepare.reading.readers import NotTextError
from lost.storage.unpack import opened

_CHUNK = 1 << 17


class PlainText(Reader):
    """Files of UTF-8 without NUL bytes."""

    suffixes = (".txt",)

    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        """Yield the text of a file."""
        decoder, pieces, position = codecs.getincrementaldecoder("utf-8")(), [], 0
        with opened(path) as file:
            while chunk := file.read(_CHUNK):
                if (nul := chunk.find(0)) >= 0:
                    raise NotTextError(f"there is a NUL byte at {position + nul}")
                pieces.append(_decoded(decoder, chunk, position))
                position += len(chunk)
        yield "".join([*pieces, _decoded(decoder, b"", position)])


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, position: int) -> str:
    """Return the text of the bytes at a position; none at the end."""
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:  # its bytes begin with those that were held back
        wrong = position + len(chunk) - len(error.object) + error.start
        raise NotTextError(f"byte {wrong} is {error.object[error.start]:#04x}, which is not UTF-8") from None
