"""A sweep's file, and which runs it needs, given what is known of others."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lost.config import Config
from lost.config.document import Document, assignment, override, parse
from lost.config.fields import Natural
from lost.config.schedule import others
from lost.errors import ConfigError
from lost.model.load import find, validate
from lost.sweep.runner import Wanted
from lost.sweep.search import searched
from lost.utils.wording import did_you_mean, did_you_mean_path

_KEYS = ("config", "grid", "search", "seeds")
_MOST = 10_000  # cells of a grid
_LONGEST = 240  # bytes of a run's name: a folder's, with .log a file's
_LARGEST = 1e30  # of a search's values, which are doubled
_SEED = "train.seed"
Settings = dict[str, Any]
Losses = dict[str, float]  # by the run's name; of one that diverged, infinity


@dataclass(frozen=True)
class Cell:
    """A place of the grid.

    Attributes:
        names: of its value on each axis, by axis.
        settings: the keys that it sets.
    """

    names: dict[str, str]
    settings: Settings


@dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    Attributes:
        cell: its place.
        value: of the key that is searched, if one is.
        seed: the run's.
        settings: all that it sets.
    """

    cell: Cell
    value: float | None
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        """A folder's name."""
        value = [] if self.value is None else [f"{self.value:g}"]
        text = "-".join([*self.cell.names.values(), *value, f"seed{self.seed}"])
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text)

    @property
    def wanted(self) -> Wanted:
        """What a runner is to do."""
        return Wanted(self.name, [assignment(key, value) for key, value in self.settings.items()])


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, checked.

    Attributes:
        base: the configuration that every run changes, as plain values.
        axes: names of the grid's axes.
        cells: the grid's places, the last axis fastest; a single one without a grid.
        key: what is searched, if anything is.
        begins: the values that a search begins with.
        seeds: of the runs; the first alone searches.
        configuration: of a trial.
        allows: whether a trial has one.
    """

    base: dict[str, Any]
    axes: Sequence[str]
    cells: Sequence[Cell]
    key: str | None
    begins: Sequence[float]
    seeds: Sequence[int]
    configuration: Callable[[Trial], Config]
    allows: Callable[[Trial], bool]

    def trial(self, cell: Cell, value: float | None, seed: int) -> Trial:
        """Return the run of a place, a value that is searched, and a seed."""
        settings = {**cell.settings, **({self.key: value} if self.key else {}), _SEED: seed}
        return Trial(cell, value, seed, settings)

    def values(self, cell: Cell, losses: Losses) -> tuple[Sequence[float | None], bool]:
        """Return the values that the search in a cell has come to, and whether it is over."""
        if self.key is None:
            return [None], True

        def first(value: float) -> Trial:
            return self.trial(cell, value, self.seeds[0])

        return searched(
            self.begins, lambda value: losses.get(first(value).name), lambda value: self.allows(first(value))
        )

    def best(self, cell: Cell, losses: Losses) -> Trial | None:
        """Return the best run of the first seed in a cell; None: its search isn't over."""
        values, over = self.values(cell, losses)
        trials = [self.trial(cell, value, self.seeds[0]) for value in values]
        known = over and all(trial.name in losses for trial in trials)
        return min(trials, key=lambda trial: losses[trial.name]) if known else None

    def trials(self, losses: Losses) -> Iterator[Trial]:
        """Yield the runs that are known to be needed: the searches', then of each cell's best the other seeds'."""
        for cell in self.cells:
            for value in self.values(cell, losses)[0]:
                yield self.trial(cell, value, self.seeds[0])
        for seed in self.seeds[1:]:
            for cell in self.cells:
                if best := self.best(cell, losses):
                    yield self.trial(cell, best.value, seed)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, and check the configuration of every run that it begins with.

    Raises:
        ConfigError: with file and line of what is wrong.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file; {did_you_mean_path(path)}expected a sweep in YAML; name one")
    document = parse(path, _KEYS)
    for key in document.values:
        if key not in _KEYS:
            raise _error(document, (key,), f"unknown key; {did_you_mean(key, _KEYS)}known here are {', '.join(_KEYS)}")
    if "config" not in document.values:
        raise ConfigError(f"{path}: config is missing; expected a YAML file, a shipped name, or sections; add it")
    base = _base(document)
    axes = _grid(document)
    searched_key, begins = _search(document)
    seeds = _checked(document, "seeds", list[Natural], [0])
    _check_set_once(document, axes, searched_key)
    cells = []
    for values in itertools.product(*(axis.items() for axis in axes.values())):
        named = dict(zip(axes, (name for name, _ in values), strict=True))
        cells.append(Cell(named, {key: value for _, settings in values for key, value in settings.items()}))

    def configuration(trial: Trial) -> Config:
        own = Document(base.source, deepcopy(base.values), dict(base.lines))
        for name, value in trial.settings.items():
            place, keys = _location(document, trial.cell, name), tuple(name.split("."))
            for end in range(1, len(keys)):
                own.lines.setdefault(keys[:end], place)
            override(own, assignment(name, value))
            own.lines[keys] = place
        return validate(own.values, own)

    known: dict[str, bool] = {}

    def allows(trial: Trial) -> bool:
        if trial.name not in known:
            try:
                known[trial.name] = bool(configuration(trial))
            except ConfigError:
                known[trial.name] = False
        return known[trial.name]

    sweep = Sweep(base.values, list(axes), cells, searched_key, begins, seeds, configuration, allows)
    seen = set()
    for trial in sweep.trials({}):
        try:
            own = configuration(trial)
        except ConfigError as error:
            raise ConfigError(f"{error} (in the run {trial.name})") from None
        if own.train.dtype == "auto":
            raise ConfigError(
                f"{path}: train.dtype = auto: each run would choose by itself; expected float32 or bfloat16; name one"
            )
        if len(os.fsencode(trial.name)) > _LONGEST:
            raise ConfigError(
                f"{path}: a run would be called {trial.name:.60}...: its {len(os.fsencode(trial.name))} bytes are no "
                f"folder's name; expected at most {_LONGEST}; name the values, such as {{small: {{...}}}}"
            )
        if trial.name in seen:
            raise ConfigError(f"{path}: two runs would be called {trial.name}; expected names that differ; rename one")
        seen.add(trial.name)
    return sweep


def _base(document: Document) -> Document:
    """Return the configuration that all runs change: a file's, or what stands in the sweep's own."""
    given = document.values["config"]
    if isinstance(given, str):
        return parse(find(given))
    if not isinstance(given, dict):
        raise _error(document, ("config",), "expected a YAML file, a shipped name, or sections")
    lines = {path[1:]: line for path, line in document.lines.items() if path[0] == "config" and len(path) > 1}
    return Document(document.source, given, lines)


def _grid(document: Document) -> dict[str, dict[str, Settings]]:
    """Return the settings of each value, by its name, by axis."""
    grid = document.values.get("grid", {})
    if not isinstance(grid, dict):
        raise _error(document, ("grid",), "expected keys with their values")
    axes: dict[str, dict[str, Settings]] = {}
    for axis, values in grid.items():
        values = json.loads(json.dumps(values, default=str))  # dates of YAML are texts to a configuration
        if isinstance(values, list) and values:
            axes[axis] = {_shown(value): {axis: value} for value in values}
            if len(axes[axis]) < len(values):
                raise _error(document, ("grid", axis), "two values are written alike; expected each once; drop one")
        elif isinstance(values, dict) and values and all(isinstance(each, dict) for each in values.values()):
            axes[axis] = values
        else:
            expected = "a list of its values, or named settings such as {small: {model.hidden_size: 64}}"
            raise _error(document, ("grid", axis), f"expected {expected}")
    count = 1
    for axis in axes.values():
        count *= len(axis)
    if count > _MOST:
        raise _error(document, ("grid",), f"it has {count:,} places; expected at most {_MOST:,}")
    return axes


def _check_set_once(document: Document, axes: dict[str, dict[str, Settings]], searched_key: str | None) -> None:
    """Check that no key is set in two places: only one would count, and tables would name the other too."""
    places = {("grid", axis): {key for each in values.values() for key in each} for axis, values in axes.items()}
    if searched_key:
        places["search", searched_key] = {searched_key}
    if place := next((place for place, keys in places.items() if _SEED in keys), None):
        raise _error(document, place, f"{_SEED} is what seeds sets; expected seeds: [0, 1] and so on; use that")
    for (first, keys), (second, more) in itertools.combinations(places.items(), 2):
        for key, other in itertools.product(sorted(more), sorted(keys)):
            if other in (key, *_alternatives(key)):
                clash = f"{'.'.join(first)} sets {other}, and this {key}"
                raise _error(document, second, f"{clash}; expected each thing said in one place; leave one out")


def _alternatives(key: str) -> set[str]:
    """Return the keys that say the same as a key of the schedule otherwise."""
    section, _, name = key.partition(".")
    return {f"{section}.{other}" for other in others(name)} if section == "schedule" else set()


def _search(document: Document) -> tuple[str | None, list[float]]:
    """Return the key that is searched, and the values to begin with."""
    given = document.values.get("search")
    if given is None:
        return None, []
    if not isinstance(given, dict) or len(given) != 1:
        raise _error(document, ("search",), "expected one key, with the values to begin with")
    key, values = next(iter(given.items()))
    try:
        numbers = TypeAdapter(list[int | float]).validate_python(values)  # YAML reads 1e-3 as text
    except ValidationError:
        numbers = []
    if not numbers or not all(0 < each < _LARGEST for each in numbers) or any(type(each) is bool for each in values):
        raise _error(document, ("search", key), "expected a list of positive numbers to begin with")
    return key, sorted(set(numbers))


def _checked(document: Document, key: str, kind: Any, default: Any) -> Any:
    """Return a value of this type."""
    try:
        value = TypeAdapter(kind).validate_python(document.values.get(key, default))
    except ValidationError as error:
        raise _error(document, (key,), error.errors()[0]["msg"]) from None
    if not value or len(set(value)) < len(value):
        raise _error(document, (key,), "expected one number or more, each once")
    return value


def _shown(value: Any) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int | str) else json.dumps(value)
    )


def _location(document: Document, cell: Cell, key: str) -> str:
    """Return where the file sets a key."""
    for axis, name in cell.names.items():
        for path in (("grid", axis, name, key), ("grid", key)):
            if path in document.lines and path[1] == axis:
                return document.lines[path]
    return document.location(("search", key)) if ("search", key) in document.lines else document.location(("seeds",))


def _error(document: Document, path: tuple[str, ...], text: str) -> ConfigError:
    value: Any = document.values
    for part in path:
        value = value[part]
    return ConfigError(f"{document.location(path)}: {'.'.join(path)} = {value!r:.100}: {text}")
