"""metrics.jsonl: one JSON object a reported step or validation, numbers with all their digits."""

import json
from pathlib import Path
from typing import Any, Protocol

from lost.files import replace_text, storage

FILE = "metrics.jsonl"


class Reporter(Protocol):
    """Whoever shows a run to a person."""

    def step(self, row: dict[str, Any]) -> None:
        """Show a reported step: the row that goes to metrics.jsonl."""

    def validation(self, row: dict[str, Any]) -> None:
        """Show a validation: the row that goes to metrics.jsonl."""

    def message(self, text: str) -> None:
        """Show a sentence."""


class MetricsFile:
    """Appends rows. What an earlier life of the run wrote after `step` is dropped: it will be written again."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / FILE
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step] if step else []
        replace_text(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with storage(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _lines(self) -> list[str]:
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").split("\n")
        return lines[:-1]  # what follows the last line's end was cut off by a crash
