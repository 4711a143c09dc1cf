"""metrics.jsonl: one JSON object for whatever a run reports, numbers with all their digits."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lost.config import Config
from lost.storage.files import replace_text, storage
from lost.storage.nofollow import open_read, open_update, read_bytes
from lost.tracking.base import Tracker
from lost.utils.parsing import finite, parse_json

FILE = "metrics.jsonl"
# Of a file, and of a line of it, that are read: a row has some hundred, with samples up to a million.
_BYTES, _LINE = 1 << 30, 1 << 20
_STEPS = 2**53  # of any run
# What a row tells of, by a field that no row of another kind has.
_KINDS = {"loss": "train", "validation_loss": "validation", "activation_rms": "inspection", "noise_scale": "noise"}
_KINDS |= {"texts": "samples"}
_LARGEST = 1e300  # near a float's own limit, differences and margins overflow


class MetricsFile(Tracker):
    """The rows of a run, one a line.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def begin(self, step: int) -> None:
        """Drop what an earlier life of the run wrote after `step`: it will be written again.

        Also lines that are no rows: the log must not keep intact checkpoints from being used.
        """
        there = step > 0 and os.path.lexists(self._path)
        with storage(self._path):
            rows = [row for row in read_rows(self._path) if row["step"] <= step] if there else []
        replace_text(self._path, "".join(_line(row) for row in rows))

    def row(self, row: dict[str, Any]) -> None:
        """Append one row."""
        line = _line(row).encode()
        with storage(self._path), open_update(self._path) as file:
            end = file.seek(0, os.SEEK_END)
            if file.write(line) < len(line):
                file.truncate(end)  # the next row must not stand on half of this one's line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, each with its step, below 2**53; lines that are no rows are left out.

    Raises:
        OSError: it can't be read, or is too long to be one.
    """
    whole = read_bytes(path, _BYTES).split(b"\n")[:-1]  # what follows the last line's end was cut off by a crash
    return [row for line in whole if (row := _row(line))]


def kind_of(row: dict[str, Any]) -> str:
    """Return what a row tells of: `train` (a report), `validation`, `inspection`, `noise`, `samples`, `checkpoint`."""
    return next((kind for key, kind in _KINDS.items() if key in row), "checkpoint")


def last_of(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the last row of a kind; an empty one where there is none."""
    return next((row for row in reversed(rows) if kind_of(row) == kind), {})


def texts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the prompt and the text of each sample of a row; what is none, as a stranger may write it, is left out."""
    found = row.get("texts")
    samples = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    pairs = [(each.get("prompt"), each.get("text")) for each in samples]
    return [(prompt, text) for prompt, text in pairs if isinstance(prompt, str) and isinstance(text, str)]


def _line(row: dict[str, Any]) -> str:
    """Return a row's line; a number that isn't finite is null there, for which JSON has no other word."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


def _row(line: bytes) -> dict[str, Any] | None:
    """Return a line's row; None: it is none, as after a machine went down while the file system wrote."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < _STEPS:
        return None
    return row


def is_number(value: object) -> bool:
    """Whether a row's entry is a number to compute with, which those of others need not be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def problems(path: Path, config: Config) -> Iterator[str]:
    """Yield what is wrong with a metrics.jsonl, each kind of fault once, where it is met first.

    Every line is a JSON object with a step. Of those that report a loss, steps ascend, and tokens and samples are those
    of the step. A last line without its end is no fault: a crash cuts it off.

    Args:
        path: the file.
        config: the run's.
    """
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    try:
        with open_read(path) as file:
            for number, kind, text in _wrong(iter(lambda: file.readline(_LINE), b""), config):
                first.setdefault(kind, f"{path}:{number}: {text}")
                counts[kind] = counts.get(kind, 0) + 1
    except OSError as error:
        yield f"{path} can't be read: {error.strerror}"
    for kind, text in first.items():
        yield text if counts[kind] == 1 else f"{text} (and {counts[kind] - 1} more lines like it)"


def _wrong(lines: Iterable[bytes], config: Config) -> Iterator[tuple[int, str, str]]:
    """Yield the number of a line, the kind of its fault, and what it is."""
    batch, reported = config.train.batch_size, 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            if len(line) == _LINE:
                yield number, "length", f"has more than {_LINE:,} characters; expected a row"
            return
        if (row := _row(line)) is None:
            yield number, "row", "is not a JSON object with a step"
            continue
        if kind_of(row) != "train":
            continue
        step = row["step"]
        if step <= reported:
            yield number, "order", f"reports step {step} after step {reported}; expected each step once, ascending"
        reported = max(step, reported)
        meant = {"tokens": step * batch * config.data.seq_len, "samples": [(step - 1) * batch, step * batch - 1]}
        for key, value in meant.items():
            if row.get(key) != value:
                yield number, key, f"{key} = {row.get(key)} at step {step}; expected {value}"
