"""Sources of documents: files of all formats that are read, folders of these, data sets of the hub."""

import errno
import fnmatch
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from lost.errors import DataError, UnreachableError
from lost.prepare import TEXT_KEY
from lost.prepare.cap import Cap
from lost.prepare.reading import hub
from lost.prepare.reading.hub import HubChoice
from lost.prepare.reading.kinds import format_of, formats_in_words
from lost.prepare.reading.parts import WHOLE, Part, parts
from lost.prepare.reading.readers import NotTextError, read
from lost.prepare.recipes import shipped
from lost.storage.nofollow import check_inside, is_within
from lost.utils.wording import did_you_mean

_UNSAID = {"text", "json_lines", "parquet"}  # formats that stamps in sets which earlier versions began don't name
_AT_ONCE = 8  # shards of a data set of the hub, under a cap


@dataclass(frozen=True)
class Unit:
    """A part of the text that is read from its beginning: a file or a part of it, or a shard of a data set.

    Attributes:
        stamp: differs from that of other units, and from that of the same unit once its content has changed, or what it
            is read as.
        documents: reads it.
    """

    stamp: str
    documents: Callable[[], Iterator[str]]


@dataclass
class Sources:
    """Where to read text from.

    Attributes:
        paths: files of all formats (of plain text each is a document), folders (searched all through), and names of
            data sets, where no such path is here.
        include: patterns of file names to take from folders; none takes every file that is text.
        exclude: patterns of names, of files or folders, to leave out inside folders.
        text_key: the field, or column, that holds the text.
        leave_out: files or folders that aren't read, nor what is in them: those that serve another purpose.
        choice: which part of data sets of the hub.
        cap: how much is taken, in an order of its own; None: all, in the order of names.
        skipped: files inside folders that turned out not to be text, filled while reading.
        links: links inside folders that lead out of them, filled while reading.
        commits: of each data set of the hub that was opened, by name; sources of one revision may share them.
    """

    paths: Sequence[Path | str]
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    text_key: str = TEXT_KEY
    leave_out: Sequence[Path] = ()
    choice: HubChoice = field(default_factory=HubChoice)
    cap: Cap | None = None
    skipped: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
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
        """Yield every document that isn't empty, in an order that depends on names, and the cap's seed, alone.

        Of documents no more than the cap says; tokens are counted where there are some.

        Raises:
            DataError: a path that doesn't exist, a named file that isn't text, a line without the text's key.
            UnreachableError: a file or folder can't be read, or a data set of the hub not to its end.
        """
        self.skipped.clear()
        self.links.clear()
        documents = (text for unit in self.units() for text in unit.documents())
        yield from islice(documents, self.cap.documents if self.cap else None)

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know of what was read."""
        for why, paths in (
            ("skipped, because they are not text", self.skipped),
            ("skipped, because they are links out of their folder; name what they lead to, if it belongs", self.links),
        ):
            if names := [path.name for path in paths]:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                yield f"{why}: {', '.join(names[:3])}{more}"

    def units(self) -> Iterator[Unit]:
        """Yield the parts that are read one after the other.

        Raises:
            DataError: a path that doesn't exist, or a cap on files and data sets of the hub together.
        """
        if self.cap is None:
            yield from self._units(_whole)
            return
        if self.remote and self.local:
            raise DataError(
                f"{', '.join(self.remote)} and {self.local[0]}: --max-documents and --max-tokens can't draw from data "
                "sets of the hub and from files alike; expected one or the other; prepare them apart, and train on "
                "both with data.mixture"
            )
        units = list(self._units(parts))
        order = self.cap.drawn(len(units))
        if self.remote:  # how much is in a shard isn't known before it is read: several are, at once
            yield Unit("", partial(in_turns, [units[number].documents for number in order]))
        else:
            yield from (units[number] for number in order)

    def _units(self, split: Callable[[Path], list[Part]]) -> Iterator[Unit]:
        for path in self.paths:
            if os.path.exists(path) and is_within(Path(path), self.leave_out):
                continue
            if os.path.isdir(path):
                yield from (unit for file in self._files(Path(path)) for unit in self._of(file, Path(path), split))
            elif os.path.exists(path):
                yield from self._of(Path(path), None, split)
            elif hub.is_name(str(path)):
                yield from self._shards(str(path))
            else:
                raise DataError(
                    f"{path} doesn't exist; {did_you_mean(str(path), shipped())}expected a "
                    f"{formats_in_words()} file, a folder, or the name of a data set, such as hf://owner/name, or of a "
                    f"recipe: {', '.join(shipped())}"
                )

    def described(self) -> dict[str, Any]:
        """Return all that decides which text is read, as JSON has it, the files' names, sizes and times among it."""
        stamps = hashlib.sha256(os.fsencode("\n".join(unit.stamp for unit in self._units(_whole))))
        return {
            "text": [str(path.absolute()) for path in self.local] + self.remote,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "text_key": self.text_key,
            **asdict(self.choice),
            **self._capped(),
            "checksum of the files' names, sizes and times": stamps.hexdigest(),
        }

    def origin(self) -> dict[str, Any]:
        """Return where the text comes from, for `dataset.json`."""
        commits = {hub.repository(name): self.commits.get(hub.repository(name)) for name in self.remote}
        choice = {**asdict(self.choice), "commits": commits} if commits else {}
        return {"sources": [str(path) for path in self.paths], **choice, **self._capped()}

    def _capped(self) -> dict[str, Any]:
        if self.cap is None:
            return {}
        return {"max_documents": self.cap.documents, "max_tokens": self.cap.tokens, "seed": self.cap.seed}

    def _shards(self, name: str) -> list[Unit]:
        if name not in self._opened:
            repository = hub.repository(name)
            if repository not in self.commits:
                self.commits[repository] = hub.commit(name, self.choice.revision)
            choice = replace(self.choice, revision=self.commits[repository])
            readers = hub.shards(name, choice, self.text_key)
            self._opened[name] = [
                Unit(f"{name} {choice} {number} of {len(readers)}", documents)
                for number, documents in enumerate(readers)
            ]
        return self._opened[name]

    def _of(self, path: Path, folder: Path | None, split: Callable[[Path], list[Part]]) -> Iterator[Unit]:
        try:
            if folder:
                check_inside(path, folder)
            own = split(path)
        except OSError:  # which reading it says
            own = [WHOLE]
        status = path.stat() if os.path.exists(path) else None  # a link inside a folder may lead nowhere
        stamp = f"{path.absolute()} {status and (status.st_size, status.st_mtime_ns)}{_read_as(path)}"
        yield from (Unit(stamp, partial(self._read, path, folder, part)) for part in own)

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
        return not is_within(path, self.leave_out)

    def _read(self, path: Path, folder: Path | None, part: Part) -> Iterator[str]:
        try:
            if folder:
                check_inside(path, folder)
            yield from read(path, self.text_key, part)
        except NotTextError as error:
            if not folder:
                raise DataError(
                    f"{path} is not text: {error}; expected UTF-8 without NUL bytes; convert it, or leave it out"
                ) from None
            self.skipped.append(path)
        except OSError as error:
            if folder and os.path.islink(path) and not os.path.exists(path):  # to nowhere
                self.skipped.append(path)
                return
            if folder and error.errno == errno.ELOOP:
                self.links.append(path)
                return
            _refuse(error, path)


def _read_as(path: Path) -> str:
    """Return the format of a file as its stamp has it: a set begun with an extension doesn't go on without it."""
    name = format_of(path)
    return "" if name in _UNSAID else f" {name}"


def _whole(path: Path) -> list[Part]:
    return [WHOLE]


def in_turns(readers: Sequence[Callable[[], Iterator[str]]], at_once: int = _AT_ONCE) -> Iterator[str]:
    """Yield from several readers at once, a document each in turn; where one has ended, the next one begins."""
    waiting = iter(readers)
    reading = deque(reader() for reader in islice(waiting, at_once))
    while reading:
        documents = reading.popleft()
        if (text := next(documents, None)) is not None:
            yield text
            reading.append(documents)
        elif reader := next(waiting, None):
            reading.append(reader())


def _refuse(error: OSError, path: Path | None = None) -> NoReturn:
    """What can't be read now may be readable later: nothing that was made of the rest is thrown away."""
    raise UnreachableError(
        f"{error.filename or path} can't be read: {error.strerror or error}; check it and its permissions, and run the "
        "same command again"
    ) from None
