"""A run as a report sees it: its configuration, its rows, how it was started, its layers."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lost.checkpoint import find_checkpoint
from lost.config import Config
from lost.errors import UserError
from lost.model.adapted import dense_twin
from lost.model.inspect import LayerReport, inspect_layers
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.scaling.runs import each_once, run_folders
from lost.storage.nofollow import read_bytes
from lost.tracking.log import FILE as LOG
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import is_number, kind_of, read_rows, texts
from lost.training.run_dir import CONFIG
from lost.utils.printable import printable

_LOG_BYTES = 1 << 24
_START = re.compile(r"^\S+(?: rank 0)? lost (\S+), process \d+ on \S+: (.*)$")


@dataclass(frozen=True)
class Layers:
    """The layers of a run's newest checkpoint.

    Attributes:
        step: of the checkpoint.
        reports: a projection each.
        channels: kept input channels by a projection's name.
    """

    step: int
    reports: list[LayerReport]
    channels: dict[str, np.ndarray]


@dataclass(frozen=True)
class Story:
    """One run.

    Attributes:
        name: short, and unlike those of the runs beside it.
        folder: the run's.
        config: the run's.
        rows: of metrics.jsonl, without nesting: `also_evaluated.NAME.loss`.
        log: lines of log.txt.
    """

    name: str
    folder: Path
    config: Config
    rows: list[dict[str, Any]] = field(repr=False)
    log: list[str] = field(repr=False)

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """Rows of reported steps."""
        return [row for row in self.rows if kind_of(row) == "train"]

    @cached_property
    def validations(self) -> list[dict[str, Any]]:
        """Rows of validations."""
        return [row for row in self.rows if kind_of(row) == "validation"]

    @property
    def samples(self) -> list[tuple[int, list[tuple[str, str]]]]:
        """The steps after which its model wrote, newest first, each with prompts and texts."""
        return [(row["step"], found) for row in reversed(self.rows) if (found := texts(row))]

    @cached_property
    def flops_per_token(self) -> int:
        """Forward and backward, as `lost plan` counts them."""
        return budget(self.config).flops_per_token

    @cached_property
    def parameters(self) -> tuple[int, int]:
        """Parameters, and those of the dense twin."""
        return budget(self.config).parameters, budget(dense_twin(self.config)).parameters

    @property
    def step(self) -> int:
        """The last one that was reported."""
        return max((row["step"] for row in self.rows), default=0)

    def tokens(self, step: int) -> int:
        """Return the tokens that were read up to a step."""
        return step * self.config.tokens_per_step

    @cached_property
    def seconds(self) -> dict[int, float]:
        """Seconds of training by reported step."""
        return {row["step"]: row["seconds"] for row in self.training if is_number(row.get("seconds"))}

    @property
    def starts(self) -> Iterator[tuple[str, str]]:
        """The version and the command of each of its lives."""
        for line in self.log:
            if found := _START.match(line):
                yield found[1], found[2]

    def layers(self) -> Layers:
        """Look into the newest intact checkpoint.

        Raises:
            LostError: there is none, or its weights can't be looked into.
        """
        found, _ = find_checkpoint(self.folder)
        parameters = dict(found.parameters())
        channels = {
            name.removesuffix(".channels"): array for name, array in parameters.items() if name.endswith(".channels")
        }
        return Layers(found.progress.step, list(inspect_layers(found.config, parameters)), channels)


def read_stories(paths: Sequence[Path]) -> list[Story]:
    """Read runs.

    Args:
        paths: run folders, or folders that hold some, such as a sweep's.

    Raises:
        UserError: a path holds none.
    """
    found = {path: run_folders(path) for path in paths}
    for path, runs in found.items():
        if not runs:
            raise UserError(f"{path} holds no run; expected what `lost train` wrote, or a folder of such")
    folders = each_once(folder for runs in found.values() for folder in runs)
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _read(folder: Path, name: str) -> Story:
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds no {CONFIG}; expected what `lost train` wrote; leave it out, or restore the file"
        )
    config = load_config(folder / CONFIG)
    rows = [_with_mean(dict(_flat(row))) for row in read_rows(folder / METRICS)]
    try:
        log = read_bytes(folder / LOG, _LOG_BYTES).decode(errors="replace").splitlines()
    except OSError:
        log = []
    return Story(name, folder, config, rows, log)


def _with_mean(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the mean loss since the one before; of versions that wrote none, the step's own loss."""
    return {"loss_mean": row["loss"], **row} if kind_of(row) == "train" else row


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the last parts of paths, as many as tell them apart, made printable."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return list(map(printable, names))


def differences(stories: Sequence[Story]) -> dict[str, list[Any]]:
    """Return the keys in which configurations differ, with the value of each run."""
    flat = [dict(_flat(story.config.model_dump())) for story in stories]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: [each.get(key) for each in flat] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "overrides":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
