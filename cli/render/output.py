"""Printing of answers, as one JSON object or as lines, and formatting of numbers."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lost.cli.render.folding import folded
from lost.cli.render.streams import check_written
from lost.utils.parsing import finite
from lost.utils.printable import JOINERS, printable


def answer(as_json: bool, value: dict[str, Any], lines: Iterable[str], command: str = "") -> None:
    """Print the command's answer on standard output.

    Args:
        as_json: whether it is an object.
        value: the object.
        lines: the answer otherwise.
        command: stands below them, to be copied: in one line, however narrow the terminal is.

    Raises:
        OutputError: it, or what was printed before it, could not be written.
    """
    text = json.dumps(finite(value), indent=2, allow_nan=False) if as_json else folded("\n".join(lines), sys.stdout)
    if command and not as_json:
        text += f"\n\n{printable(command)}"
    if text:
        print(text)
    check_written()  # what the command has printed before, too


def note(text: str) -> None:
    """Print a remark on standard error."""
    print(folded(text, sys.stderr), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line of the answer as soon as it is known."""
    print(folded(text, sys.stdout), flush=True)


def write_text(text: str, raw: bool) -> None:
    """Write what a user or a model wrote: to a terminal escaped, unless it is wanted raw; elsewhere as it is."""
    raw = raw or not sys.stdout.isatty()
    print(text if raw else printable(text, JOINERS), end="", flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a table as lines, the first column aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in ([*zip(row, widths, strict=True)] for row in cells)
    ]


def count(number: float) -> str:
    """Return 42,800,000 as 42.80M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.0f}"


def number(value: float | None, digits: int) -> str:
    """Return a number with `digits` decimals, or "not finite"."""
    return "not finite" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return 3,725 seconds as 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
