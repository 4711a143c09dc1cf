"""A long run's bad day: stopped for a while, the clock set back, files gone, moved or damaged, limits, a failing disk.

Each is survived, or ends in words with the last good checkpoint intact; either way the same command then goes on to
where an undisturbed run ends, to the bit.
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import contents
from processes import run_python, start_python, wait_for_step, wait_until

from lost import checkpoint
from lost.checkpoint import check_intact, checkpoints, open_checkpoint
from lost.data.dataset import Dataset
from lost.training.verify import verify

Lost = Callable[..., Any]
WRITES = ("open", "fsync", "rename", "replace", "mkdir", "unlink")


def state(run: Path, step: int = 20) -> dict[str, bytes]:
    held = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: value.tobytes() for name, value in (*held.parameters(), *held.moments())}


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.fixture
def arguments(whole: Path, prepared: Dataset) -> tuple[Any, ...]:
    """The command of `whole`, up to its folder."""
    return ("train", whole / "tiny.yaml", "--data", prepared.path, "--device", "cpu", "--out")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's state in /proc")
def test_stopped_for_a_while(arguments: tuple[Any, ...], whole: Path, tmp_path: Path) -> None:
    with start_python("-m", "lost", *arguments, tmp_path / "run") as process:
        wait_for_step(process, 4)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        os.kill(process.pid, signal.SIGCONT)
        process.communicate()
        assert process.wait() == 0
    assert state(tmp_path / "run") == state(whole / "run")


def test_the_clock_set_back(
    lost: Lost, arguments: tuple[Any, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    answer = lost(*arguments, tmp_path / "run", "--set", "train.stop_after=15")
    assert answer.code == 0, answer.err
    assert lost(*arguments, tmp_path / "run").code == 0
    assert state(tmp_path / "run") == state(whole / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if "loss" in row]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_the_newest_checkpoint_deleted(lost: Lost, arguments: tuple[Any, ...], whole: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    answer = lost(*arguments, run)
    assert answer.code == 0, answer.err
    assert "from step 10" in answer.out
    assert state(run) == state(whole / "run")
    assert losses(run) == losses(whole / "run")


def test_a_checkpoint_deleted_under_the_run(
    lost: Lost, arguments: tuple[Any, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next one is pruned against it."""
    run, prune = tmp_path / "run", checkpoint.prune

    def emptied(folder: Path, *rest: Any) -> None:
        for path in checkpoints(folder)[:-1]:
            shutil.rmtree(path)
        prune(folder, *rest)

    monkeypatch.setattr(checkpoint, "prune", emptied)
    answer = lost(*arguments, run, "--set", "train.save_every=5")
    assert answer.code == 0, answer.err
    assert state(run) == state(whole / "run")


@pytest.mark.parametrize("cut", [0.0, 0.4, 0.97])
def test_the_log_of_metrics_cut_short(
    lost: Lost, arguments: tuple[Any, ...], whole: Path, run: Path, cut: float
) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content[: int(cut * len(content))])
    answer = lost(*arguments, run)
    assert answer.code == 0, answer.err
    assert state(run) == state(whole / "run")
    assert set(losses(run)) <= set(losses(whole / "run"))
    assert [row for row in losses(run) if row[0] > 10] == [row for row in losses(whole / "run") if row[0] > 10]


def test_a_run_moved_elsewhere(lost: Lost, whole: Path, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    """It goes on from its new place, by the same file or as a folder."""
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    moved = tmp_path / "another disk" / "run"
    moved.parent.mkdir()
    run.rename(moved)
    answer = lost("train", moved, "--data", prepared.path, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert state(moved) == state(whole / "run")
    assert verify(moved).problems == []


def test_moved_under_the_run(
    lost: Lost, arguments: tuple[Any, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved went along; the run says where it could no longer write, and makes no second folder of its own."""
    from lost.training.run import Run

    run, moved, step = tmp_path / "run", tmp_path / "moved", Run.step

    def moving(self: Any, progress: Any) -> Any:
        if progress.step == 14:
            run.rename(moved)
        return step(self, progress)

    monkeypatch.setattr(Run, "step", moving)
    answer = lost(*arguments, run)
    assert answer.code == 2
    assert str(run) in answer.err
    assert "defect" not in answer.err
    check_intact(open_checkpoint(moved / "checkpoints" / "step-00000010"))
    monkeypatch.undo()
    shutil.rmtree(run, ignore_errors=True)
    assert lost(*arguments, moved).code == 0
    assert state(moved) == state(whole / "run")


def test_a_folder_that_can_only_be_read(
    lost: Lost, arguments: tuple[Any, ...], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk that was mounted anew after an error: nothing can be written, and what is there stays."""
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    before = contents(run)
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(run)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    answer = lost(*arguments, run)
    assert answer.code == 2
    assert "Read-only file system" in answer.err
    assert contents(run) == before


LIMITED = """
import resource, sys
kind, limit = getattr(resource, sys.argv.pop(1)), int(sys.argv.pop(1))
resource.setrlimit(kind, (limit, limit))
from lost.cli.main import main
main()
"""


def test_few_open_files(arguments: tuple[Any, ...], whole: Path, tmp_path: Path) -> None:
    done = run_python("-c", LIMITED, "RLIMIT_NOFILE", 64, *arguments, tmp_path / "run", cold=True)
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "run") == state(whole / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit isn't kept")
@pytest.mark.parametrize("gigabytes", [0.4, 2])
def test_little_address_space(gigabytes: float, arguments: tuple[Any, ...], run: Path, tmp_path: Path) -> None:
    """Too little for PyTorch itself, or for its threads: done, or an end in words; the next command goes on."""
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    on = ("--backend", "torch")
    shutil.copytree(run, tmp_path / "whole")
    run_python("-m", "lost", *arguments, tmp_path / "whole", *on, check=True)
    limited = ("-c", LIMITED, "RLIMIT_AS", int(gigabytes * 1e9), *arguments, run, *on)
    done = run_python(*limited, cold=True, LD_PRELOAD="")
    assert done.returncode in (0, 1, 2), done.stderr
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert "memory" in done.stderr.lower() or "can't be loaded" in done.stderr, done.stderr
        check_intact(open_checkpoint(run / "checkpoints" / "step-00000010"))
        assert run_python("-m", "lost", *arguments, run, *on).returncode == 0
    assert state(run) == state(tmp_path / "whole")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, int], list[str]]]:
    """Have the n-th write below a folder fail once, as a disk's bad sector does, and count them."""

    def install(folder: Path, number: int) -> list[str]:
        done: list[str] = []

        def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(place: Any, *rest: Any, **more: Any) -> Any:
                below = isinstance(place, int) or str(place).startswith(str(folder))
                writes = name != "open" or bool(rest and rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
                if below and writes:
                    done.append(f"{name} {place}")
                    if len(done) == number:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                return function(place, *rest, **more)

            return call

        for name in WRITES:
            monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
        return done

    yield install
    monkeypatch.undo()


def test_a_disk_that_fails_at_any_write(
    lost: Lost,
    arguments: tuple[Any, ...],
    whole: Path,
    tmp_path: Path,
    failing: Callable[[Path, int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever it is: the command ends with 2 and names it, or needed it not; the next one goes on to the same end."""
    run, more = tmp_path / "run", ("--set", "train.save_every=10", "--set", "train.log_every=10")
    done = failing(run, 0)
    assert lost(*arguments, run, *more).code == 0
    monkeypatch.undo()
    codes = []
    for number in range(1, len(done) + 1, 10):
        shutil.rmtree(run, ignore_errors=True)
        done = failing(run, number)
        answer = lost(*arguments, run, *more)
        monkeypatch.undo()
        where = f"write {number}, {done[-1]}: {answer.err}"
        assert answer.code in (0, 2), where
        assert answer.code == 0 or "Input/output error" in answer.err, where
        assert "defect" not in answer.err, where
        for path in checkpoints(run / "checkpoints"):
            check_intact(open_checkpoint(path))
        again = lost(*arguments, run, *more)
        assert again.code == 0, where + again.err
        assert state(run) == state(whole / "run"), where
        codes.append(answer.code)
    assert codes.count(2) > len(codes) / 2 > 3
