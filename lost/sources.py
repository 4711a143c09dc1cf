"""Documents out of what users have: text files, JSON lines, folders of source files."""

import fnmatch
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lost.errors import DataError

_JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


@dataclass
class Sources:
    """Files and folders to read text from.

    Attributes:
        paths: text files (one document each), JSON-lines files (one document a line), folders (searched whole).
        include: patterns of file names to take from folders; none takes every file that is text.
        exclude: patterns of names, of files or folders, to leave out inside folders.
        text_key: the field of a JSON line that holds the text.
        leave_out: files or folders inside the folders that aren't read: those that serve another purpose.
        skipped: files inside folders that turned out not to be text, filled while reading.
    """

    paths: Sequence[Path]
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    text_key: str = "text"
    leave_out: Sequence[Path] = ()
    skipped: list[Path] = field(default_factory=list)

    def documents(self) -> Iterator[str]:
        """Yield every document that isn't empty, in an order that depends on names alone.

        Raises:
            DataError: a path that doesn't exist, a named file that isn't text, a line without the text's key.
        """
        self.skipped.clear()
        for path in self.paths:
            if path.is_dir():
                for file in self._files(path):
                    yield from self._read(file, inside_folder=True)
            elif path.exists():
                yield from self._read(path, inside_folder=False)
            else:
                raise DataError(f"{path} doesn't exist; expected a text file, a .jsonl[.gz] file or a folder")

    def _files(self, folder: Path) -> Iterator[Path]:
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != "__pycache__" and self._wanted(Path(parent, name)))
            for name in sorted(files):
                included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
                if included and self._wanted(Path(parent, name)):
                    yield Path(parent, name)

    def _wanted(self, path: Path) -> bool:
        if path.name.startswith(".") or any(fnmatch.fnmatchcase(path.name, pattern) for pattern in self.exclude):
            return False
        return not any(path.resolve() == other.resolve() for other in self.leave_out)

    def _read(self, path: Path, inside_folder: bool) -> Iterator[str]:
        try:
            if path.name.endswith(_JSON_LINES):
                yield from self._json_lines(path)
            elif text := _text(path):
                yield text
        except _NotText as error:
            if not inside_folder:
                raise DataError(
                    f"{path} is not text: {error}; expected UTF-8 without NUL bytes; convert it, or leave it out"
                ) from None
            self.skipped.append(path)
        except (OSError, EOFError, zlib.error) as error:
            if inside_folder and not path.exists():  # a link to nowhere
                self.skipped.append(path)
                return
            raise DataError(f"{path} can't be read: {error}; check the file and its permissions") from None

    def _json_lines(self, path: Path) -> Iterator[str]:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{place}: not a JSON object ({error}); expected one object a line") from None
                text = record.get(self.text_key) if isinstance(record, dict) else None
                if not isinstance(text, str):
                    keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                    raise DataError(
                        f"{place}: no text under {self.text_key!r} (found: {keys}); name the field with --text-key"
                    )
                if text:
                    yield text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half a surrogate pair


class _NotText(Exception):
    pass


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(path: Path) -> str:
    with _open(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _NotText(f"byte {error.start} is {content[error.start]:#04x}, which is not UTF-8") from None
    if "\0" in text:
        raise _NotText(f"there is a NUL byte at {text.index(chr(0))}")
    return text
