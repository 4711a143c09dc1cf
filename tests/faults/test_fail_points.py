"""Killed with kill -9 at fail points of a save: the newest intact checkpoint is found, and the run ends the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import run_python, torchrun

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.storage.failpoints import POINTS

Lost = Callable[..., Any]

# What the second save of a run (step 20; with keep_last = 1 the one of step 10 goes then) leaves when it is killed.
RESUMES_FROM = {
    "save.begun:2": 10,
    "save.file:3": 10,  # a save writes two files
    "save.arrays:2": 10,
    "save.manifest:2": 10,
    "save.renamed:2": 20,
    "save.latest:2": 20,
    "prune.renamed:1": 20,
}


def command(config: Path, data: Dataset, out: Path, *more: str) -> list[str]:
    sets = ("schedule.steps=30", "train.keep_last=1", *more)
    return ["-m", "lost", "train", str(config), "--data", str(data.path), "--out", str(out), "--device", "cpu",
            *(word for value in sets for word in ("--set", value))]  # fmt: skip


def state(run: Path, step: int = 30) -> dict[str, bytes]:
    found = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    (folder / "tiny.yaml").write_text(tiny_text)
    run_python(*command(folder / "tiny.yaml", prepared, folder / "run"), check=True)
    return folder


def test_every_point_of_a_save_is_tried() -> None:
    assert {name.partition(":")[0] for name in RESUMES_FROM} == {
        name for name in POINTS if name.startswith(("save", "prune"))
    }


@pytest.mark.parametrize("point", RESUMES_FROM)
def test_killed_in_a_save(lost: Lost, straight: Path, prepared: Dataset, tmp_path: Path, point: str) -> None:
    arguments = command(straight / "tiny.yaml", prepared, tmp_path / "run")
    assert run_python(*arguments, LOST_FAIL_POINT=f"{point}=kill").returncode == -9
    again = lost(*arguments[2:])
    assert f"from step {RESUMES_FROM[point]}" in again.out, again.err
    assert state(tmp_path / "run") == state(straight / "run")
    left = tmp_path / "run" / "checkpoints"
    assert [path.name for path in left.iterdir()] == ["step-00000030"]  # nothing else fills the disk
    assert (tmp_path / "run" / "latest").read_text() == "checkpoints/step-00000030\n"


@pytest.mark.parametrize("point", ["save.renamed:2", "save.latest:2"])
def test_a_resume_first_ends_what_a_killed_save_left(
    lost: Lost, straight: Path, prepared: Dataset, tmp_path: Path, point: str
) -> None:
    """Killed before the checkpoint of step 10 is gone, and again while step 30 is saved: step 20's is the only one."""
    arguments = command(straight / "tiny.yaml", prepared, tmp_path / "run")
    assert run_python(*arguments, LOST_FAIL_POINT=f"{point}=kill").returncode == -9
    assert run_python(*arguments, LOST_FAIL_POINT="save.begun:1=kill").returncode == -9
    left = tmp_path / "run" / "checkpoints"
    assert [path.name for path in left.iterdir() if not path.name.startswith(".")] == ["step-00000020"]
    assert (tmp_path / "run" / "latest").read_text() == "checkpoints/step-00000020\n"


@pytest.mark.parametrize("point", ["save.file:3", "save.manifest:2", "prune.renamed:1"])
def test_told_to_stop_in_a_save(lost: Lost, straight: Path, prepared: Dataset, tmp_path: Path, point: str) -> None:
    """SIGTERM while step 20 is being saved: that save is finished, the step under way too, and saved."""
    arguments = command(straight / "tiny.yaml", prepared, tmp_path / "run")
    stopped = run_python(*arguments, LOST_FAIL_POINT=f"{point}=term")
    assert stopped.returncode == 143, stopped.stderr
    last = (tmp_path / "run" / "latest").read_text().strip()
    step = open_checkpoint(tmp_path / "run" / last).progress.step
    assert 20 < step < 30
    assert f"stopped at step {step}" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    again = lost(*arguments[2:])
    assert f"from step {step}" in again.out, again.err
    assert state(tmp_path / "run") == state(straight / "run")


@pytest.mark.parametrize(
    "point", ["save.file:3=kill@1", pytest.param("save.manifest:2=kill@0", marks=pytest.mark.slow)]
)
def test_a_worker_killed_in_a_save(straight: Path, prepared: Dataset, tmp_path: Path, point: str) -> None:
    arguments = command(straight / "tiny.yaml", prepared, tmp_path / "run")
    torchrun(2, *command(straight / "tiny.yaml", prepared, tmp_path / "straight"))
    assert torchrun(2, *arguments, LOST_FAIL_POINT=point).returncode != 0
    again = torchrun(2, *arguments)
    assert "from step 10" in again.stdout, again.stderr
    assert state(tmp_path / "run") == state(tmp_path / "straight")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000030"]


def test_a_disk_that_is_full_on_one_worker(straight: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Rank 1's disk refuses at step 20: the run stops in words and keeps step 10, or goes on if asked to."""
    arguments = command(straight / "tiny.yaml", prepared, tmp_path / "run")
    fault = {"LOST_FAIL_POINT": "save.file:3=full@1"}
    stopped = torchrun(2, *arguments, **fault)
    assert stopped.stderr.count("saving the checkpoint of step 20: rank 1: ") >= 2  # both say so
    assert "No space left on device" in stopped.stderr
    left = tmp_path / "run" / "checkpoints"
    assert [path.name for path in left.iterdir()] == ["step-00000010"]
    assert len(state(tmp_path / "run", 10)) > 0
    goes_on = torchrun(2, *arguments, "--fresh", "--overwrite", "--set", "train.on_save_error=continue", **fault)
    assert "Training goes on" in goes_on.stdout
    assert "done at step 30" in goes_on.stdout
    assert [path.name for path in left.iterdir()] == ["step-00000030"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "save_error" in row] == [20]
