"""Commands of `lost` in processes of their own, and what their runs hold, for scripts that measure whole commands."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lost.checkpoint import check_intact, open_checkpoint
from lost.tracking.metrics import FILE, read_rows


def lost(*words: object) -> dict[str, Any]:
    """Run a command, and return its `--json` answer; the script ends where it fails.

    On one thread, unless OMP_NUM_THREADS says otherwise.
    """
    return dict(json.loads(call(*words, "--json", env={"OMP_NUM_THREADS": "1", **os.environ})))


def call(*words: object, workers: int = 1, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command, and return what it prints; the script ends where it fails.

    Args:
        words: of the command.
        workers: processes, under torchrun where they are several.
        cwd: the folder that it runs in; None: this one.
        env: all of its environment; None: this one.
    """
    line = command(*words, workers=workers)
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=env)
    if done.returncode:
        raise SystemExit(f"{shlex.join(line)}: {done.stderr}")
    return done.stdout


def command(*words: object, workers: int = 1) -> list[str]:
    """Return the command line of a command, under torchrun where there are several workers."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", workers, "--no-python")
    line = (sys.executable, *((*launcher, sys.executable) if workers > 1 else ()), "-m", "lost", *words)
    return list(map(str, line))


def sets(*settings: str) -> list[str]:
    """Return the words that set each of these, KEY=VALUE."""
    return [word for setting in settings for word in ("--set", setting)]


def steps(run: Path) -> list[dict[str, Any]]:
    """Return what a run reported of its steps, a row each."""
    return [row for row in read_rows(run / FILE) if "loss" in row]


def arrays(run: Path, step: int) -> dict[str, bytes]:
    """Return the bytes of every array of a run's checkpoint, which must be intact."""
    found = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    check_intact(found)
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}
