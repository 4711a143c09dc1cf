"""The interface of a reader: which files are its own, their documents, the parts into which they can be taken."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from lost.prepare.reading.parts import WHOLE, Part


class Reader(ABC):
    """What reads the files of one format.

    To add a format: subclass this in a file of its own, and register an instance in `lost.prepare.reading.KINDS`.

    Attributes:
        suffixes: with which the names of these files end, before .gz or .zst where they are packed.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        """Yield the documents of a part of a file, in the same order every time; empty ones are left out by the caller.

        Args:
            path: the file; `lost.storage.unpack.opened` opens it, unpacked where it is packed.
            text_key: the name that the user gave to where the text is, in formats that have names for it.
            part: of its documents: all of them, or one of `parts`.

        Raises:
            NotTextError: it holds no text; where it is one of a folder, it is left out.
            DataError: it is damaged, or holds nothing under the key.
            OSError: it can't be read.
        """

    def parts(self, path: Path, packed: bool) -> list[Part]:
        """Return parts that together are a file, in its order, each read alone: a sample is drawn from them.

        Args:
            path: the file.
            packed: whether its name says that it is packed, so that no part can be read without what is before it.

        Raises:
            OSError: it can't be opened, or is damaged.
        """
        return [WHOLE]
