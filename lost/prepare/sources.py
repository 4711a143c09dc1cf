"""Sources of documents: text, JSON lines and parquet, folders of these, data sets of the hub."""

import errno
import fnmatch
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from lost.errors import DataError, UnreachableError
from lost.prepare import hub
from lost.prepare.hub import HubChoice
from lost.prepare.readers import NotTextError, read
from lost.storage.nofollow import check_inside, resolved


@dataclass(frozen=True)
class Unit:
    """A part of the text that is read from its beginning: a file, or a shard of a data set.

    Attributes:
        stamp: differs from that of other units, and from that of the same unit once its content has changed.
        documents: reads it.
    """

    stamp: str
    documents: Callable[[], Iterator[str]]


@dataclass
class Sources:
    """Where to read text from.

    Attributes:
        paths: text files (one document each), JSON-lines files (one document a line), parquet files (one document a
            row), folders (searched all through), and names of data sets, where no such path is here.
        include: patterns of file names to take from folders; none takes every file that is text.
        exclude: patterns of names, of files or folders, to leave out inside folders.
        text_key: the field of a JSON line, or the column, that holds the text.
        leave_out: files or folders that aren't read: those that serve another purpose.
        choice: which part of data sets of the hub.
        skipped: files inside folders that turned out not to be text, filled while reading.
        commits: of each data set of the hub that was opened, by name.
    """

    paths: Sequence[Path | str]
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    text_key: str = "text"
    leave_out: Sequence[Path] = ()
    choice: HubChoice = field(default_factory=HubChoice)
    skipped: list[Path] = field(default_factory=list)
    commits: dict[str, str | None] = field(default_factory=dict)
    _opened: dict[str, list[Unit]] = field(default_factory=dict, repr=False)

    @property
    def local(self) -> list[Path]:
        """The files and folders among the paths."""
        return [Path(path) for path in self.paths if os.path.exists(path)]

    @property
    def remote(self) -> list[str]:
        """The names of data sets among the paths."""
        return [str(path) for path in self.paths if not os.path.exists(path)]

    def documents(self) -> Iterator[str]:
        """Yield every document that isn't empty, in an order that depends on names alone.

        Raises:
            DataError: a path that doesn't exist, a named file that isn't text, a line without the text's key.
            UnreachableError: a file or folder can't be read, or a data set of the hub not to its end.
        """
        self.skipped.clear()
        for unit in self.units():
            yield from unit.documents()

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know of what was read."""
        if names := [path.name for path in self.skipped]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"skipped, because they are not text: {', '.join(names[:3])}{more}"

    def units(self) -> Iterator[Unit]:
        """Yield the parts that `documents` reads one after the other.

        Raises:
            DataError: a path that doesn't exist.
        """
        for path in self.paths:
            if os.path.isdir(path):
                yield from (self._unit(file, Path(path)) for file in self._files(Path(path)))
            elif os.path.exists(path):
                if not self._left_out(Path(path)):
                    yield self._unit(Path(path), None)
            elif hub.is_name(str(path)):
                yield from self._shards(str(path))
            else:
                raise DataError(
                    f"{path} doesn't exist; expected a text, .jsonl or .parquet file, a folder, or the name of a data "
                    "set, such as hf://owner/name"
                )

    def described(self) -> dict[str, Any]:
        """Return all that decides which text is read, as JSON has it, the files' names, sizes and times among it."""
        stamps = hashlib.sha256(os.fsencode("\n".join(unit.stamp for unit in self.units())))
        return {
            "text": [str(path.absolute()) for path in self.local] + self.remote,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "text_key": self.text_key,
            **asdict(self.choice),
            "checksum of the files' names, sizes and times": stamps.hexdigest(),
        }

    def origin(self) -> dict[str, Any]:
        """Return where the text comes from, for `dataset.json`."""
        chosen = {**asdict(self.choice), "commits": self.commits} if self.remote else {}
        return {"sources": [str(path) for path in self.paths], **chosen}

    def _shards(self, name: str) -> list[Unit]:
        if name not in self._opened:
            choice = hub.pinned(name, self.choice)
            readers = hub.shards(name, choice, self.text_key)
            self.commits[name] = choice.revision
            self._opened[name] = [
                Unit(f"{name} {choice} {number} of {len(readers)}", documents)
                for number, documents in enumerate(readers)
            ]
        return self._opened[name]

    def _unit(self, path: Path, folder: Path | None) -> Unit:
        status = path.stat() if os.path.exists(path) else None  # a link inside a folder may lead nowhere
        stamp = f"{path.absolute()} {status and (status.st_size, status.st_mtime_ns)}"
        return Unit(stamp, partial(self._read, path, folder))

    def _files(self, folder: Path) -> Iterator[Path]:
        for parent, folders, files in os.walk(folder, onerror=_refuse):
            folders[:] = sorted(name for name in folders if name != "__pycache__" and self._wanted(Path(parent, name)))
            for name in sorted(files):
                included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
                if included and self._wanted(Path(parent, name)):
                    yield Path(parent, name)

    def _wanted(self, path: Path) -> bool:
        if path.name.startswith(".") or any(fnmatch.fnmatchcase(path.name, pattern) for pattern in self.exclude):
            return False
        return not self._left_out(path)

    def _left_out(self, path: Path) -> bool:
        return any(resolved(path) == resolved(other) for other in self.leave_out)

    def _read(self, path: Path, folder: Path | None) -> Iterator[str]:
        try:
            if folder:
                check_inside(path, folder)
            yield from read(path, self.text_key)
        except NotTextError as error:
            if not folder:
                raise DataError(
                    f"{path} is not text: {error}; expected UTF-8 without NUL bytes; convert it, or leave it out"
                ) from None
            self.skipped.append(path)
        except OSError as error:
            if folder and not os.path.exists(path):  # a link to nowhere
                self.skipped.append(path)
                return
            if error.errno == errno.ELOOP:
                raise DataError(
                    f"{path}: {error.strerror}; expected files of {folder or path.parent}; name what it leads to, or "
                    "leave it out with --exclude"
                ) from None
            _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    """What can't be read now may be readable later: nothing that was made of the rest is thrown away."""
    raise UnreachableError(
        f"{error.filename} can't be read: {error.strerror}; check it and its permissions, and run the same command "
        "again"
    ) from None
