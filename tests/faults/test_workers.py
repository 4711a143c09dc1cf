"""Several processes under mlx.launch: the same run as one process, and no silent harm when one of them is lost."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import STDOUT

import pytest
from folders import contents
from processes import Started, ring, run_command, run_python, wait_for_step

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset

LAUNCH = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring", "--", sys.executable]


def command(config: Path, data: Dataset, out: Path, *more: str) -> list[str]:
    return ["-m", "lost", "train", str(config), "--data", str(data.path), "--out", str(out), "--backend", "mlx",
            "--device", "cpu", *more]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def workers(out: Path) -> Iterator[tuple[int, int]]:
    """The (rank, process number) of the workers of a run, as the system shows them."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        ranks = [entry for entry in environment if entry.startswith(b"MLX_RANK=")]
        if os.fsencode(out) in line and b"lost" in line and b"--" not in line and ranks:
            yield int(ranks[0].rpartition(b"=")[2]), int(folder.name)


def test_two_workers_equal_one(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    evaluated = ("--set", "train.eval_every=10", "--set", "train.sample_every=4", "--set", "train.sample_tokens=3")
    run_python(*command(tiny_yaml, prepared, one, *evaluated), check=True)
    # Begun by two, killed nowhere, gone on with by two: what rank 0 read from disk, the other gets from it.
    begun = command(tiny_yaml, prepared, two, *evaluated, "--set", "train.stop_after=13")
    for start in (lambda: run_command(*LAUNCH, *begun), lambda: ring(2, tmp_path / "hosts", *begun[:-2])):
        done = start()
        assert done.stdout.count("parameters") == 1, done.stderr  # one of them speaks
    assert "from step 13" in done.stdout
    assert losses(two).keys() == losses(one).keys() == set(range(1, 21))
    for step, loss in losses(two).items():
        assert loss == pytest.approx(losses(one)[step], abs=1e-5)
    ends = [open_checkpoint(run / "checkpoints" / "step-00000020").progress for run in (one, two)]
    assert ends[0].samples == ends[1].samples == 80
    assert ends[1].validation_loss == pytest.approx(ends[0].validation_loss, abs=1e-5)
    rows = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "texts" in row] == [4, 8, 12, 16, 20]  # by rank 0 alone


def test_a_batch_that_cannot_be_divided(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    sets = ("--set", "train.micro_batch_size=4")
    done = ring(2, tmp_path / "hosts", *command(tiny_yaml, prepared, tmp_path / "run", *sets))
    assert "they don't divide among 2 workers" in done.stderr
    assert not (tmp_path / "run").exists()


def test_workers_that_do_not_agree(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Rank 1 was given another learning rate: neither trains."""
    script = (
        "import os, sys; from lost.cli.main import main\n"
        "if os.environ['MLX_RANK'] == '1': sys.argv += ['--set', 'optimizer.lr=1e-4']\n"
        "main()"
    )
    run = tmp_path / "run"
    run_python(*command(tiny_yaml, prepared, run), check=True)
    before = contents(run)
    again = command(tiny_yaml, prepared, run, "--fresh", "--overwrite")[2:]
    done = ring(2, tmp_path / "hosts", "-c", script, *again)
    assert "the configuration here (rank 1) differ from rank 0's" in done.stderr
    assert contents(run) == before


def test_ctrl_c_saves_and_stops_all(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """One of them sees the signal; all stop after the same step, and rank 0 saves it."""
    run = tmp_path / "run"
    started = [*LAUNCH, *command(tiny_yaml, prepared, run, "--set", "schedule.steps=100000")]
    with Started(started, STDOUT) as launcher:
        wait_for_step(launcher, 13)
        os.kill(dict(workers(run))[1], signal.SIGINT)
        rest = launcher.communicate()[0]
    assert "stopped at step" in rest
    step = int(rest.rpartition("stopped at step ")[2].partition(":")[0])
    assert (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()


def test_one_host_is_no_group(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    alone = [word if word != "2" else "1" for word in LAUNCH]
    done = run_command(*alone, *command(tiny_yaml, prepared, tmp_path / "run", "--set", "schedule.steps=3"))
    assert "done at step 3" in done.stdout, done.stderr


def test_a_backend_that_trains_alone_refuses_a_launcher(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend, variable, value in (
        ("torch", "MLX_RANK", "0"),
        ("torch", "WORLD_SIZE", "2"),
        ("mlx", "OMPI_COMM_WORLD_SIZE", "2"),
    ):
        monkeypatch.setenv(variable, value)
        answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", backend)
        monkeypatch.delenv(variable)
        assert answer.code == 2
        assert f"{variable} = {value}" in answer.err
        assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("lost_rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_lost_worker_ends_the_run_and_harms_nothing(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path, lost_rank: int
) -> None:
    run, long = tmp_path / "run", ("--set", "schedule.steps=100000", "--set", "train.keep_last=1000")
    started = [*LAUNCH, *command(tiny_yaml, prepared, run, *long)]
    with Started(started, STDOUT) as launcher:
        wait_for_step(launcher, 21)  # the save of step 10 is finished before that of step 20 begins
        os.kill(dict(workers(run))[lost_rank], signal.SIGKILL)
        try:
            launcher.communicate()  # until the other has left as well
        finally:
            left = [number for _, number in workers(run)]
            for number in (*left, launcher.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
    assert left == []
    # What rank 0 may have taken for a step after its peer was gone is not among what was saved.
    straight = tmp_path / "straight"
    last = max(int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("step-*"))
    stop = ("--set", f"train.stop_after={last}")
    ring(2, tmp_path / "hosts", *command(tiny_yaml, prepared, straight, *long, *stop))
    assert state(run, last) == state(straight, last)


def state(run: Path, step: int) -> dict[str, bytes]:
    checkpoint = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: value.tobytes() for name, value in (*checkpoint.parameters(), *checkpoint.moments())}
