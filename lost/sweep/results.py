"""A sweep's folder: the lines of what is done, kept through crashes, and which run is due."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lost.errors import ConfigError
from lost.storage.files import replace_bytes, replace_text, storage
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.sweep.plan import Losses, Sweep, Trial
from lost.sweep.runner import LOG, Runner, Wanted, measured
from lost.tracking.metrics import is_number
from lost.utils.parsing import finite, parse_object

CONFIG, LINES = "config.yaml", "results.jsonl"
_NUMBERS = ("loss", "value", "bits_per_byte", "step_seconds")  # of a line; null where there is none


def check_folder(sweep: Sweep, folder: Path) -> None:
    """See that a folder is empty or this sweep's, so that nothing else in it is replaced.

    Raises:
        ConfigError: it isn't.
    """
    there = {path.name: path for path in folder.glob("[!.]*")} if folder.is_dir() else {}
    if not there:
        return
    # Versions before this one wrote the lines only when a run had ended: runs and their logs were all there was.
    begun = all(path.is_dir() or path.suffix == LOG for name, path in there.items() if name != CONFIG)
    if CONFIG not in there or not (LINES in there or begun):
        raise ConfigError(
            f"{folder} isn't empty, and is no sweep's folder; expected a new one, or one that has the {CONFIG} and the "
            f"{LINES} of a sweep; choose another --out"
        )
    if read_bytes(there[CONFIG], DOCUMENT_BYTES) != _text(sweep):
        raise _changed(there[CONFIG], "its configuration is another")


def _text(sweep: Sweep) -> bytes:
    """Return what all runs' configurations begin from, as it lies in the sweep's folder."""
    return yaml.safe_dump(sweep.base, sort_keys=False).encode()


class Results:
    """What is done of a sweep.

    Args:
        sweep: its file.
        folder: holds everything; it is made if necessary.
        data: the fingerprint of what all runs read; None: the grid says what each does.

    Raises:
        ConfigError: the folder holds something else, or its sweep had other runs under the same names, or other data.
        StorageError: the disk refused.
    """

    def __init__(self, sweep: Sweep, folder: Path, data: str | None = None) -> None:
        self.sweep, self.folder, self._data = sweep, folder, data
        check_folder(sweep, folder)
        self.rows = list(self._read())
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / CONFIG
        replace_bytes(self.config, _text(sweep))
        if not (folder / LINES).exists():
            self._write()  # without a line: it marks the folder as a sweep's
        self._by_name = {row["name"]: row for row in self.rows}
        for trial in self.trials():
            row = self._by_name.get(trial.name)
            if row and row["settings"] != json.loads(json.dumps(trial.settings)):
                raise _changed(folder / LINES, f"{trial.name} had other settings")
        if other := next((row for row in self.rows if row.get("data") not in (None, data)), None):
            raise ConfigError(
                f"{folder / LINES}: the runs in this folder read other data ({other['name']} for one); losses on other "
                "text or tokens can't be compared: expected the same; name it with --data, or choose another --out"
            )

    def losses(self) -> Losses:
        """Return the loss of every run that is done; of one that diverged, infinity."""
        return {name: float("inf") if row["loss"] is None else row["loss"] for name, row in self._by_name.items()}

    def row(self, trial: Trial) -> dict[str, Any] | None:
        """Return the line of a run, if it is done."""
        return self._by_name.get(trial.name)

    def trials(self) -> list[Trial]:
        """Return the runs that are known to be needed."""
        return list(self.sweep.trials(self.losses()))

    def due(self, runner: Runner) -> Wanted | None:
        """Return a run to begin now, if there is one."""
        pending = (trial for trial in self.trials() if trial.name not in self._by_name)
        return next((trial.wanted for trial in pending if trial.name not in runner.running), None)

    def keep(self, name: str, answer: dict[str, Any], threads: int) -> dict[str, Any]:
        """Write the line of a run that has ended, and return it."""
        trial = next(each for each in self.trials() if each.name == name)
        row = {
            "name": name,
            "cell": trial.cell.names,
            "value": trial.value,
            "seed": trial.seed,
            "settings": trial.settings,
            "data": self._data,
            **measured(self.folder / name, answer, threads),
        }
        self._by_name[name] = finite(row)
        self.rows.append(self._by_name[name])
        self._write()
        return self._by_name[name]

    def _write(self) -> None:
        replace_text(self.folder / LINES, "".join(json.dumps(each) + "\n" for each in self.rows))

    def _read(self) -> Iterator[dict[str, Any]]:
        path = self.folder / LINES
        if not path.exists():
            return
        with storage(path):
            lines = read_bytes(path, DOCUMENT_BYTES).splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = parse_object(line)
                if not isinstance(row.get("name"), str) or not isinstance(row.get("settings"), dict):
                    raise ValueError("it has no name, or no settings")
                if not is_number(row.get("parameters")):
                    raise ValueError("its parameters is no number")
                if wrong := [
                    key for key in _NUMBERS if not is_number(row.get(key, "")) and row.get(key, "") is not None
                ]:
                    raise ValueError(f"its {wrong[0]} is no number")
            except ValueError as error:
                raise ConfigError(
                    f"{path}:{number} isn't a sweep's line ({error}); expected what `lost sweep` wrote; remove it"
                ) from None
            yield row


def _changed(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path}: the sweep in this folder was begun with another file: {what}; expected the same one; change it "
        "back, or choose another --out"
    )
