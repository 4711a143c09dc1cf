"""Killed, told to stop, out of disk: a run goes on as if nothing had happened."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_python, start_python, wait_for_line

from lost.__main__ import main
from lost.checkpoint import open_checkpoint, saver
from lost.data.dataset import Dataset
from lost.data.loader import TrainingStream
from lost.engine import BACKENDS
from lost.errors import DataError, StorageError
from lost.tracking.metrics import MetricsFile
from lost.training.signals import stop_on_signal
from lost.training.verify import verify

Lost = Callable[..., Any]
STEPS = 60


def command(config: Path, data: Dataset, out: Path, *more: str) -> list[str]:
    return ["-m", "lost", "train", str(config), "--data", str(data.path), "--out", str(out), "--device", "cpu",
            "--set", f"schedule.steps={STEPS}", "--set", "train.eval_every=20", *more]  # fmt: skip


def losses(run: Path) -> dict[int, tuple[float, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], (row["loss"], row["grad_norm"])) for row in rows if "loss" in row]
    assert len(dict(found)) == len(found), "a step was reported twice"
    return dict(found)


def state(run: Path, step: int = STEPS) -> dict[str, bytes]:
    checkpoint = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: value.tobytes() for name, value in (*checkpoint.parameters(), *checkpoint.moments())}


# A step that takes minutes, as one does that is compiled first, or has thousands of micro-batches.
ENDLESS = """
import sys, time
from lost.backends.torch.engine import TorchEngine
from lost.cli.main import main
step, calls, endless = TorchEngine.step, [], int(sys.argv.pop(1))
def slow(*arguments):
    calls.append(1)
    if len(calls) == endless:
        print("inside", flush=True)
        time.sleep(10_000)
    return step(*arguments)
TorchEngine.step = slow
main()
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_and_resumed_is_bit_identical(tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str) -> None:
    """60 steps straight, against 60 steps killed as by kill -9 at step 37 and resumed from the last checkpoint.

    Each in a process that starts cold, with a hash seed and addresses of its own.
    """
    straight, killed, on = tmp_path / "straight", tmp_path / "killed", ("--backend", backend)
    run_python(*command(tiny_yaml, prepared, straight, *on), cold=True, check=True)
    fault = {"LOST_FAIL_POINT": "step.done:37=kill"}
    assert run_python(*command(tiny_yaml, prepared, killed, *on), cold=True, **fault).returncode == -signal.SIGKILL
    assert max(losses(killed)) > 30  # which no checkpoint knows of
    assert verify(killed).problems == []
    again = run_python(*command(tiny_yaml, prepared, killed, *on), cold=True, check=True)
    assert any(f"from step {step}" in again.stdout for step in (20, 30))  # the save of step 30 may not be finished
    assert f"on {backend} cpu" in again.stdout
    assert losses(killed) == losses(straight)
    assert len(losses(killed)) == STEPS
    assert state(killed) == state(straight)
    assert verify(killed).problems == verify(killed).remarks == []


def test_sigterm_saves_and_the_same_command_goes_on(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    stopped = run_python(*command(tiny_yaml, prepared, run), LOST_FAIL_POINT="step.done:13=term")
    assert stopped.returncode == 143
    assert "SIGTERM: saving after this step" in stopped.stdout
    assert "stopped at step 13: " in stopped.stdout
    assert stopped.stdout.endswith(f"; `lost train {tmp_path / 'run'}` resumes\n")
    assert max(losses(run)) == 13
    for out in (run, straight):
        assert lost(*command(tiny_yaml, prepared, out)[2:]).code == 0
    assert state(run) == state(straight)
    assert losses(run) == losses(straight)


def test_stop_after_and_go_on_equals_straight(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--out")
    assert lost(*arguments, tmp_path / "a").code == 0
    for stop in (3, 11, 20):
        assert lost(*arguments, tmp_path / "b", "--set", f"train.stop_after={stop}").code == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert state(tmp_path / "a", 20) == state(tmp_path / "b", 20)


def test_an_evaluation_that_an_interruption_skipped_is_made_up(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "train.eval_every=5")
    for point in ("step.done:5", "evaluation.round:1"):  # at step 5, before or in its evaluation
        monkeypatch.setattr("lost.storage.failpoints._PLAN", f"{point}=term")
        monkeypatch.setattr("lost.storage.failpoints._reached", 0)
        assert lost(*arguments, "--fresh", "--overwrite").code == 143
        assert (tmp_path / "run" / "checkpoints" / "step-00000005").exists()
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "")
    assert lost(*arguments).code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_loss" in row] == [5, 10, 15, 20]


def test_the_last_evaluation_that_was_made_up_is_kept(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is made up once, and its checkpoint can be the best."""
    run = tmp_path / "run"
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--out", run, "--set", "schedule.steps=5", "--device")
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "evaluation.round:1=term")
    monkeypatch.setattr("lost.storage.failpoints._reached", 0)
    assert lost(*arguments, "cpu").code == 143
    assert open_checkpoint(run / "checkpoints" / "step-00000005").progress.validation_loss is None
    before = state(run, 5)
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "")
    for _ in range(2):
        assert lost(*arguments, "cpu").code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (found,) = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert open_checkpoint(run / "checkpoints" / "step-00000005").progress.validation_loss == found
    assert state(run, 5) == before


def test_damaged_newest_checkpoint_is_passed_over(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--out")
    assert lost(*arguments, tmp_path / "a").code == 0
    assert lost(*arguments, tmp_path / "b", "--set", "train.stop_after=15").code == 0
    newest = tmp_path / "b" / "checkpoints" / "step-00000015" / "optimizer-00001.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    answer = lost(*arguments, tmp_path / "b")
    assert answer.code == 0, answer.err
    assert "skipped: " in answer.out
    assert "from step 10" in answer.out
    assert state(tmp_path / "a", 20) == state(tmp_path / "b", 20)


def test_disk_full_while_saving(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the second checkpoint's moments is refused: the first stays, nothing half-made stays."""
    from lost.storage import tensors

    run, arguments = tmp_path / "run", ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run")
    write = tensors.write_new

    def refuse(path: Path, content: bytes) -> None:
        if "step-00000020" in str(path) and path.name.startswith("optimizer"):
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(tensors, "write_new", refuse)
    answer = lost(*arguments)
    assert answer.code == 2
    assert "No space left on device" in answer.err
    assert "Nothing that was there before is lost" in answer.err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    monkeypatch.undo()
    assert lost("verify", run).code == 0


def test_really_full_disk(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """The system itself refuses the write: a limit on file sizes stands for a full disk, and needs no privileges."""
    run = tmp_path / "run"
    run_python(*command(tiny_yaml, prepared, run, "--set", "train.stop_after=10"), check=True)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.argv[0] = 'lost'; from lost.cli.main import main; main()"
    )
    answer = run_python("-c", limited, *command(tiny_yaml, prepared, run)[2:])
    assert answer.returncode == 2, answer.stderr
    assert "could not be written: File too large" in answer.stderr
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    assert len(state(run, 10)) > 0


def test_a_row_of_metrics_is_whole_or_not_there(tmp_path: Path) -> None:
    """A disk that is full takes the beginning of a line: the next row must not be glued to it."""
    limited = (
        "import resource, sys; from pathlib import Path; from lost.tracking.metrics import MetricsFile\n"
        "metrics = MetricsFile(Path(sys.argv[1])); metrics.begin(0); metrics.row({'step': 1})\n"
        "for limit in (20, resource.RLIM_INFINITY):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try: metrics.row({'step': 2, 'loss': 3.5})\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    done = run_python("-c", limited, tmp_path)
    assert done.stdout == "StorageError\n", done.stderr
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1}, {"step": 2, "loss": 3.5}]


def test_lines_that_are_no_rows_keep_no_run_from_going_on(tmp_path: Path) -> None:
    """As a machine that goes down, or a person, leaves them."""
    lines = (b'{"step": 1}', b"\0\0\0", b"", b"\xff", b"[1]", b'{"loss": 1}', b'{"step": 5}', b'{"step": 6}', b'{"st')
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    MetricsFile(tmp_path).begin(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 5}\n'


def test_a_full_disk_takes_no_metrics_either(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lets training go on without checkpoints lets it go on without its log."""

    def refuse(metrics: MetricsFile, row: dict) -> None:
        raise StorageError("metrics.jsonl could not be written: No space left on device.")

    monkeypatch.setattr(MetricsFile, "row", refuse)
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--set", "train.stop_after=10")
    assert lost(*arguments, "--out", tmp_path / "a").code == 2
    answer = lost(*arguments, "--out", tmp_path / "b", "--set", "train.on_save_error=continue")
    assert answer.code == 0, answer.err
    assert "No space left on device. Training goes on" in answer.out
    assert len(state(tmp_path / "b", 10)) > 0


def test_a_checkpoint_that_stands_is_not_called_lost(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "save.renamed=full")
    monkeypatch.setattr("lost.storage.failpoints._reached", 0)
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run")
    assert answer.code == 2
    assert (
        "saving the checkpoint of step 10: the checkpoint is complete, but what comes after it failed: " in answer.err
    )
    assert len(state(tmp_path / "run", 10)) > 0


def test_nohup() -> None:
    """A closed terminal means nothing to a run that was started so as to outlive it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal(print) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_killed_prepare_leaves_no_half_set(text_folder: Path, tmp_path: Path) -> None:
    """Stopped inside the encoding, then run again: no set before, a whole one after, and no leftovers."""
    out = tmp_path / "data"
    stall = (
        "import time, sys; from pathlib import Path\n"
        "from lost.prepare.text import prepare; from lost.prepare.sources import Sources\n"
        "def progress(phase, done, total, documents=0, tokens=0):\n"
        "    if phase == 'encoding': print('there', flush=True); time.sleep(600)\n"
        "prepare(Sources([Path(sys.argv[1])]), Path(sys.argv[2]), 320, 0.1, progress)"
    )
    with start_python("-c", stall, text_folder, out) as process:
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1  # the half-made folder, under its temporary name
    sizes = ("--vocab-size", "320", "--valid-fraction", "0.1")
    run_python("-m", "lost", "prepare", text_folder, "--out", out, *sizes, cold=True, check=True)
    assert list(tmp_path.iterdir()) == [out]
    assert list(Dataset(out).problems()) == []


def test_killed_while_saving_leaves_the_last_good_checkpoint(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash leaves at each point of a save, as far as a file system shows it."""
    run = tmp_path / "run"
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--out")
    assert lost(*arguments, tmp_path / "straight").code == 0
    assert lost(*arguments, run, "--set", "train.stop_after=10").code == 0
    for name in (".partial-step-00000020", ".partial-step-00000013", ".partial-removed-step-00000005"):
        half = run / "checkpoints" / name
        half.mkdir()
        (half / "model-00001.safetensors").write_bytes(b"half")
    assert lost(*arguments, run).code == 0
    assert list((run / "checkpoints").glob(".*")) == []
    assert state(run, 20) == state(tmp_path / "straight", 20)


def test_diverged_run_stops_in_words(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "optimizer.lr=1e30",
                  "--set", "optimizer.weight_decay=1", "--set", "schedule.warmup_steps=0")  # fmt: skip
    assert answer.code == 1
    assert "expected finite numbers" in answer.err


def test_an_error_waits_for_the_save_before_it(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data fails while the checkpoint of step 10 is on its way to the disk: it is finished."""
    write, read = saver.write_tensors, TrainingStream.batch

    def slow(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.5)
        return write(*arguments, **more)

    def fail(stream: TrainingStream, first: int, count: int) -> Any:
        if first >= 40:
            raise DataError("the share is gone")
        return read(stream, first, count)

    monkeypatch.setattr(saver, "write_tensors", slow)
    monkeypatch.setattr(TrainingStream, "batch", fail)
    sets = ("--set", "train.save_every=10", "--set", "train.batch_size=4")
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch", *sets)
    assert (answer.code, "the share is gone" in answer.err) == (2, True)
    assert verify(tmp_path / "run").problems == []
    assert (tmp_path / "run" / "checkpoints" / "step-00000010").exists()


def test_ctrl_c_before_the_command_line_is_there_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "lost.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lost.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_second_signal_leaves_at_once(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    train = command(tiny_yaml, prepared, tmp_path / "run", "--backend", "torch")[2:]
    with start_python("-c", ENDLESS, 2, *train) as process:
        wait_for_line(process, "inside")
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "SIGINT: saving after this step")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr
        assert process.stderr.read().startswith("lost: stopped at once")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_there_is_nothing_to_wait_for(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    train = command(tiny_yaml, prepared, tmp_path / "run", "--backend", "torch")[2:]
    with start_python("-c", ENDLESS, 1, *train) as process:
        wait_for_line(process, "inside")
        process.send_signal(number)
        assert process.wait() == 128 + number
        assert process.stderr
        assert "stopped before the first step was done; nothing new to save" in process.stderr.read()
    assert "nothing new to save" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


def test_arrays_are_compared_by_bytes() -> None:
    """The comparisons above see the last bit."""
    one = np.ones(1, np.float32)
    assert one.tobytes() != np.nextafter(one, np.float32(2)).tobytes()
