"""One job a run folder, which ends with its launcher and says why."""

import errno
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import STDOUT

import pytest
from processes import run_python, start_python, torchrun_command, wait_for_step, wait_until

from lost.data.dataset import Dataset
from lost.errors import RunBusyError, StorageError
from lost.storage.files import atomic_dir
from lost.storage.lock import locked


def command(config: Path, data: Dataset, out: Path, *more: str) -> list[str]:
    sets = ("schedule.steps=100000", *more)
    return ["-m", "lost", "train", str(config), "--data", str(data.path), "--out", str(out), "--device", "cpu",
            *(word for value in sets for word in ("--set", value))]  # fmt: skip


def test_a_second_job_is_refused_and_a_dead_ones_lock_does_not_block(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    arguments = command(tiny_yaml, prepared, tmp_path / "run")
    with start_python(*arguments) as first:
        wait_for_step(first, 13)
        before = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
        others = [start_python(*arguments, *more) for more in ((), ("--fresh", "--overwrite"))]
        for other in others:  # side by side: each waits for seconds before it gives up
            with other:
                assert f"is in use by process {first.pid} on " in other.communicate()[1]
            assert other.returncode == 75
        assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == before
        first.kill()
    reached = max(int(each.name[5:]) for each in (tmp_path / "run" / "checkpoints").glob("step-*"))
    third = run_python(*arguments, "--set", f"train.stop_after={reached + 5}")
    assert f"from step {reached}\n" in third.stdout, third.stderr


def test_a_lock_is_waited_for_a_while(tmp_path: Path) -> None:
    """As long as workers take to notice that their launcher was killed."""
    holder = (
        "import sys, time; from pathlib import Path; from lost.storage.lock import locked\n"
        "with locked(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(1.5)"
    )
    with start_python("-c", holder, tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with locked(tmp_path, print) as own:
            assert str(os.getpid()) in own
        assert process.wait() == 0


def test_a_place_with_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"), locked(tmp_path / ("x" * 300) / "run", print):
        pass


def test_a_lock_that_was_moved_away_is_none(tmp_path: Path) -> None:
    """A folder that has become whole takes its lock along: who waited for it locks the one that is there then."""
    folder, waiting = tmp_path / "partial", locked(tmp_path / "partial", print)
    with ThreadPoolExecutor(1) as pool:
        with locked(folder, print):
            entered = pool.submit(waiting.__enter__)
            time.sleep(0.3)
            folder.rename(tmp_path / "whole")
        entered.result()
    with pytest.raises(RunBusyError), locked(folder, print, timeout=0):
        pass
    waiting.__exit__(None, None, None)


def test_two_commands_that_write_one_folder(tmp_path: Path) -> None:
    """The second is refused, and takes nothing from the first; nothing else is left, and the third replaces it."""
    out = tmp_path / "more" / "out"
    with atomic_dir(out) as partial:
        (partial / "first").write_text("1")
        with pytest.raises(RunBusyError, match="out is being written by another command"), atomic_dir(out):
            pass
        (partial / "second").write_text("2")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["first", "second"]
    with atomic_dir(out, replace=True) as partial:
        pass
    assert list(out.iterdir()) == []
    with pytest.raises(ZeroDivisionError), atomic_dir(out, replace=True):
        1 / 0  # noqa: B018
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_dead_commands_folder_does_not_block(tmp_path: Path) -> None:
    """What it left goes, whatever that is."""
    holder = (
        "import sys, time; from pathlib import Path; from lost.storage.files import atomic_dir\n"
        "with atomic_dir(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'old').mkdir(); print('held', flush=True); time.sleep(600)"
    )
    out = tmp_path / "out"
    with start_python("-c", holder, out) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError), atomic_dir(out):
            pass
        process.kill()
    with atomic_dir(out) as partial:
        assert partial.exists()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EBADF])  # the latter of folders on network shares
def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with atomic_dir(tmp_path / "out") as partial:
        (partial / "file").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_workers_leave_with_their_launcher(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """kill -9 of torchrun: its workers are gone seconds later, say why, and the next job starts at once."""
    run = tmp_path / "run"
    arguments = command(tiny_yaml, prepared, run)
    with start_python(*torchrun_command(2), *arguments, cold=True) as process:
        wait_for_step(process, 13)
        assert len(workers(run)) == 2
        process.kill()
        try:
            wait_until(lambda: not workers(run))
        finally:
            for number in workers(run):
                os.kill(number, signal.SIGKILL)
    words = f"stopped: the launcher (process {process.pid}) is gone; what was saved before is intact"
    assert words in (run / "log.txt").read_text()
    done = run_python(*arguments, "--set", "train.stop_after=20")
    assert "stopped by train.stop_after = 20" in done.stdout, done.stderr


def workers(run: Path) -> list[int]:
    """The process numbers of a run's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(run) in line and b"torch.distributed.run" not in line:
            found.append(int(folder.name))
    return found


def test_sigterm_to_the_launcher_saves_on_all_workers(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """What a cluster sends before it takes a machine away."""
    run = tmp_path / "run"
    launcher = torchrun_command(2, cold=False)
    with start_python(*launcher, *command(tiny_yaml, prepared, run), stderr=STDOUT) as process:
        wait_for_step(process, 13)
        process.send_signal(signal.SIGTERM)
        rest = process.communicate()[0]
    assert "SIGTERM: saving after this step" in rest
    step = int(rest.rpartition("stopped at step ")[2].partition(":")[0])
    assert (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()
    assert f"stopped at step {step}" in (run / "log.txt").read_text().splitlines()[-1]
