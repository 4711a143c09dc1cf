"""Trainings as processes of their own, several at a time: begun, resumed, collected, told to save themselves."""

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost.errors import DivergedError, LostError, UserError
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.storage.files import storage
from lost.storage.lock import holder
from lost.storage.nofollow import open_update
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import last_of, read_rows
from lost.training.run_dir import CONFIG
from lost.utils.parsing import parse_object

LOG = ".log"  # the suffix of what a run prints, beside its folder
_WAIT = 1.0  # seconds between two looks at what runs


@dataclass(frozen=True)
class Wanted:
    """A training to do.

    Attributes:
        name: of its run folder.
        overrides: what it sets, as `--set` takes it.
    """

    name: str
    overrides: Sequence[str]


class Runner:
    """Processes that train, each a `lost train` or what stands for it.

    Args:
        command: what trains, up to the options of the single run.
        work: holds the run folders, and beside each NAME.log.
        threads: of each process, on a CPU.
    """

    def __init__(self, command: Sequence[str], work: Path, threads: int) -> None:
        self._command, self._work, self.threads = list(command), work, threads
        self.running: dict[str, tuple[Wanted, subprocess.Popen[str] | None]] = {}

    def begin(self, wanted: Wanted) -> None:
        """Start or resume a run; one that a stopped sweep's process still trains, once that has ended."""
        self.running[wanted.name] = wanted, None
        if holder(self._work / wanted.name) is None:
            self.running[wanted.name] = wanted, self._start(wanted)

    def ended(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the runs that have ended since, each with its answer; of one that diverged an infinite loss.

        Raises:
            LostError: one failed.
            UserError: one was refused.
        """
        done = []
        for name, (wanted, process) in list(self.running.items()):
            if process is None:
                self.begin(wanted)
            elif process.poll() is not None:
                del self.running[name]
                done.append((name, self._answer(name, process)))
        return done

    def stop(self) -> None:
        """Have every run save itself and end."""
        processes = [process for _, process in self.running.values() if process]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()

    def _start(self, wanted: Wanted) -> "subprocess.Popen[str]":
        options = [option for setting in wanted.overrides for option in ("--set", setting)]
        command = [*self._command, "--out", str(self._work / wanted.name), *options]
        with storage(self._log(wanted.name)), open_update(self._log(wanted.name)) as log:
            log.seek(0, os.SEEK_END)
            return start_process(command, log.fileno(), {"OMP_NUM_THREADS": str(self.threads)})

    def _answer(self, name: str, process: "subprocess.Popen[str]") -> dict[str, Any]:
        text = process.communicate()[0]
        try:
            answer = parse_object(text)
        except ValueError:
            answer = {}
        if process.returncode == 0 and answer:
            return answer
        error = answer.get("error", {})
        if error.get("kind") == DivergedError.__name__:
            return {"validation_loss": float("inf"), "bits_per_byte": float("inf"), "tokens": None}
        kind = UserError if process.returncode == UserError.exit_code else LostError
        reason = error.get("message", f"it ended with {process.returncode}")
        raise kind(f"{name}: {reason} (its output: {self._log(name)})")

    def _log(self, name: str) -> Path:
        return self._work / f"{name}{LOG}"


def start_process(command: list[str], errors: int, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a process whose standard output is text in a pipe; Ctrl-C in this terminal doesn't reach it."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, **environment},
        process_group=0,
    )


def work_off(
    runner: Runner,
    jobs: int,
    due: Callable[[], Wanted | None],
    keep: Callable[[str, dict[str, Any]], None],
    look: Callable[[], bool] = lambda: False,
) -> bool:
    """Do what is due, until nothing is; whatever ends this has the runs save themselves.

    Args:
        runner: starts and collects runs.
        jobs: runs at a time.
        due: returns a run to begin now, if there is one.
        keep: takes a run that has ended, and its answer.
        look: called every second; returns whether to stop.

    Returns:
        Whether nothing is left to do.
    """
    try:
        while True:
            for name, answer in runner.ended():
                keep(name, answer)
            if look():
                return not runner.running and due() is None
            while len(runner.running) < jobs and (wanted := due()):
                runner.begin(wanted)
            if not runner.running:
                return True
            time.sleep(_WAIT)
    finally:
        runner.stop()


def measured(folder: Path, answer: dict[str, Any], threads: int) -> dict[str, Any]:
    """Return what a finished run came to, for a line of results.

    Args:
        folder: of the run.
        answer: of `lost train --json`; what a run that was complete before doesn't say is taken from its metrics.
        threads: it had.
    """
    config, rows = load_config(folder / CONFIG), read_rows(folder / METRICS)
    validated = last_of(rows, "validation")
    steps = [row for row in rows if "tokens_per_second" in row]
    per_step = config.tokens_per_step
    known = {**validated, **{key: value for key, value in answer.items() if value is not None}}
    return {
        "loss": known["validation_loss"],
        "bits_per_byte": known.get("bits_per_byte"),
        "tokens": answer["tokens"],
        "parameters": budget(config).parameters,
        "step_seconds": statistics.median(per_step / row["tokens_per_second"] for row in steps) if steps else None,
        "memory_bytes": max((row["memory_bytes"] for row in steps), default=None),
        "threads": threads,
    }
