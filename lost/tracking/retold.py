"""Trackers of others: emptied where a run begins or goes on, and told anew what metrics.jsonl holds.

So each shows every reported step once, whatever an earlier life of the run wrote before it was killed, whatever the
tracker had not stored by then, and also if it was chosen in the midst of a run.
"""

import secrets
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError

from lost.config import Config
from lost.config.fields import Section
from lost.errors import ConfigError
from lost.storage.files import replace_text
from lost.storage.nofollow import check_folder, read_bytes
from lost.tracking.base import Tracker
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import kind_of, read_rows, texts
from lost.utils.extras import need

FOLDER = "tracking"  # in the run folder: what they write themselves
_ID, _LETTERS = "id", 8

S = TypeVar("S", bound=Section)


class Retold(Tracker, ABC, Generic[S]):
    """A tracker of metrics.jsonl's rows. A subclass says how it is opened, and how it takes a step's values.

    Args:
        folder: the run folder.
        config: of the run.
        values: the tracker's settings, unchecked.

    Attributes:
        name: by which a configuration chooses it, and of the extra that brings its library.
        module: the library's.
        takes: its settings.
        forgets: whether it can be emptied; one that can't be gets another run where a training begins anew.

    Raises:
        ConfigError: the settings aren't its.
        MissingPackageError: its library isn't installed.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    takes: type[S]
    forgets: ClassVar[bool] = True

    def __init__(self, folder: Path, config: Config, values: dict[str, Any]) -> None:
        self._run, self._config = folder, config
        self._settings = _checked(self.takes, self.name, values)
        self._library = need(self.module, self.name, f"tracking.{self.name}")
        self._offset = self._at = 0.0

    def begin(self, step: int) -> None:
        """Open, empty, and tell what was before the step; nobody else writes metrics.jsonl meanwhile."""
        place = self._run / FOLDER / self.name
        for folder in (place.parent, place):
            check_folder(folder)
            folder.mkdir(exist_ok=True)
        rows = read_rows(self._run / METRICS) if step else []
        self.open(place, _run_id(place, renew=step == 0 and not self.forgets))
        taken = max((row["seconds"] for row in rows if kind_of(row) == "train"), default=0.0)
        self._offset = self._at = time.time() - taken
        for row in rows:
            self.row(row)

    def row(self, row: dict[str, Any]) -> None:
        """Write its numbers and texts."""
        if kind_of(row) == "train":
            self._at = self._offset + row["seconds"]
        self.write(row["step"], scalars(row), self._at)
        if samples := texts(row):
            self.write_texts(row["step"], samples, self._at)

    @abstractmethod
    def open(self, place: Path, run: str) -> None:
        """Open, without anything of what an earlier life of the run wrote.

        Args:
            place: the folder for what is written locally; its files are of earlier lives.
            run: eight hexadecimal digits that tell it apart.
        """

    @abstractmethod
    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Take numbers of a step; of one step there may be several calls, with other names.

        Args:
            step: which one.
            values: by names such as `train/loss`.
            at: when that was, in seconds since 1970, as far as it is known.
        """

    def write_texts(self, step: int, samples: list[tuple[str, str]], at: float) -> None:
        """Take what the model wrote after a step, each prompt with its text; a tracker that shows none leaves it out.

        Args:
            step: which one.
            samples: prompt and text of each.
            at: as `write` has it.
        """


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """Return a row's numbers, named by what they are about: `train/`, `validation/` and so on."""
    return dict(_numbers(f"{kind_of(row)}/", row))


def _numbers(prefix: str, row: dict[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in row.items():
        name = prefix + key.removeprefix("validation_")
        if isinstance(value, dict):
            found += _numbers(f"{name}/", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step":
            found.append((name, value))
    return found


def _checked(kind: type[S], name: str, values: dict[str, Any]) -> S:
    """Return a tracker's settings.

    Raises:
        ConfigError: they aren't those of the tracker.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        entry = error.errors()[0]
        key = ".".join(map(str, ("tracking", name, *entry["loc"])))
        known = ", ".join(kind.model_fields) or "none"
        text = f"unknown key; known here: {known}" if entry["type"] == "extra_forbidden" else entry["msg"]
        raise ConfigError(f"{key} = {entry['input']!r}: {text[0].lower() + text[1:]}") from None


def _run_id(place: Path, renew: bool) -> str:
    """Return what tells the run apart; it stays so, unless it is renewed."""
    path = place / _ID
    try:
        found = read_bytes(path, _LETTERS).decode()
        int(found, 16)
    except (OSError, ValueError):
        found = ""
    if renew or len(found) != _LETTERS:
        found = secrets.token_hex(_LETTERS // 2)
        replace_text(path, found)
    return found
