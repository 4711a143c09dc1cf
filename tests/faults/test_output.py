"""Output that nobody reads: a closed terminal, a pipe whose reader exited, a full disk behind it."""

import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import start_python

from lost.checkpoint import open_checkpoint
from lost.cli.render.streams import TolerantStream, tolerant_output
from lost.data.dataset import Dataset
from lost.engine import BACKENDS

Lost = Callable[..., Any]
EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def command(config: Path, data: Dataset, out: Path, backend: str, steps: int) -> list[str]:
    found = ["-m", "lost", "train", config, "--data", data.path, "--out", out, "--backend", backend]
    return [*map(str, found), "--set", f"schedule.steps={steps}", "--set", "train.save_every=0"]


@EACH_BACKEND
def test_a_closed_terminal_saves(tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str) -> None:
    """Its processes are told with SIGHUP, whose announcement has no terminal to go to any more."""
    run, (ours, theirs) = tmp_path / "run", pty.openpty()

    def take_the_terminal() -> None:
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))

    with subprocess.Popen(
        [sys.executable, *command(tiny_yaml, prepared, run, backend, 100_000)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_the_terminal,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while b"loss" not in shown:
            shown += os.read(ours, 4096)
        os.close(ours)
        assert process.wait() == 128 + signal.SIGHUP
    (saved,) = (run / "checkpoints").iterdir()
    step = open_checkpoint(saved).progress.step
    assert 0 < step < 100_000
    assert f"stopped at step {step}" in (run / "log.txt").read_text()


@EACH_BACKEND
def test_a_reader_that_leaves_ends_no_run(tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str) -> None:
    """As in `lost train | head -2`."""
    arguments = command(tiny_yaml, prepared, tmp_path / "run", backend, 30)
    with start_python(*arguments, cold=True, PYTHONUNBUFFERED="1") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors == ""
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000030").progress.step == 30


@EACH_BACKEND
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full, which stands for a full disk")
def test_a_full_disk_behind_the_output_ends_no_run(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, *command(tiny_yaml, prepared, tmp_path / "run", backend, 30)]
        assert subprocess.run(arguments, stdout=full, stderr=full).returncode == 0
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000030").progress.step == 30


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full, which stands for a full disk")
def test_an_answer_that_is_lost_is_said(whole: Path) -> None:
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-m", "lost", "inspect", str(whole / "run"), "--json"]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("lost: standard output could not be written: No space left on device")
    assert "Exception ignored" not in done.stderr


def test_closed_descriptors_take_no_file_of_ours(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """As a shell leaves them after `>&- 2>&-`: what is printed must not end in the file that is opened next."""
    words = " ".join([sys.executable, *command(tiny_yaml, prepared, tmp_path / "run", "torch", 10)])
    assert subprocess.run(["sh", "-c", f"exec {words} >&- 2>&- <&-"]).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 11))


class Refusing(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "")


def test_what_a_stream_refuses_is_dropped_and_remembered() -> None:
    stream = TolerantStream(Refusing())
    print("said", file=stream, flush=True)  # type: ignore[call-overload]
    assert stream.error
    assert not stream.unread  # it was no terminal: a disk refused


def test_names_that_are_no_text_are_shown_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", shown)
    with tolerant_output():
        print("caf\udce9")
    assert shown.buffer.getvalue() == b"caf\\udce9\n"  # type: ignore[attr-defined]
