"""What the parts share: their command line, how they tell what they found, tables, `lost` in a process of its own."""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lost.tracking.metrics import FILE, read_rows

Tell = Callable[[dict[str, Any]], None]


def begin(measured: Callable[[argparse.Namespace, Tell], None]) -> None:
    """Run a part from its command line: `--device`, `--small`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    measured(parser.parse_args(), lambda found: print(json.dumps(found), flush=True))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [["" if cell is None else str(cell).replace("|", "/") for cell in line] for line in lines]
    return [f"| {' | '.join(each)} |" for each in cells]


def known(form: str, value: float | None) -> str:
    """Return a number, or nothing where it isn't known."""
    return "" if value is None else form.format(value)


def lost(*arguments: object, workers: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the command line, with `workers` under torchrun; the end of what it says where it fails is in the error.

    Raises:
        RuntimeError: it failed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", workers, "--no-python"]
    command = [sys.executable, *([*launcher, sys.executable] if workers else []), "-m", "lost", *arguments]
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        raise RuntimeError(f"lost {arguments[0]}: exit code {done.returncode}: {said[0]}")
    return done


def prepared(folder: Path, small: bool) -> Path:
    """Return a prepared set of Python's standard library, the demo's text, or a part of it."""
    library = Path(sysconfig.get_path("stdlib"))
    words = [library / "email", "--include", "*.py", "--vocab-size", 1024] if small else [library, "--include", "*.py"]
    if not small:
        words += [word for name in ("site-packages", "test", "tests", "idlelib") for word in ("--exclude", name)]
        words += ["--vocab-size", 4096, "--valid-fraction", 0.02]
    lost("prepare", *words, "--out", folder)
    return folder


def metrics(run: Path, key: str) -> list[Any]:
    """Return the values of a key, line by line, of those lines that have it."""
    return [row[key] for row in read_rows(run / FILE) if key in row]
