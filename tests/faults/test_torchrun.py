"""Several processes under torchrun: the same run at every world size, checkpoints that any of them reads."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_python, torchrun

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.generation.samples import write_samples

STEPS = 100
SLOW = pytest.mark.slow  # variants of what another case tests


def command(config: Path, data: Dataset, out: Path, *more: str) -> list[str]:
    sizes = ("train.batch_size=8", "train.save_every=20", "train.keep_last=100", f"schedule.steps={STEPS}")
    settings = [word for value in (*sizes, *more) for word in ("--set", value)]
    return ["-m", "lost", "train", str(config), "--data", str(data.path), "--out", str(out), "--backend", "torch",
            "--device", "cpu", *settings]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> tuple[Path, Path]:
    """A configuration, and the run of one process without torchrun."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "tiny.yaml").write_text(tiny_text)
    run_python(*command(folder / "tiny.yaml", prepared, folder / "run"), check=True)
    return folder / "tiny.yaml", folder / "run"


@pytest.mark.parametrize(
    ("world", "more"),
    [(2, ()), *(pytest.param(*each, marks=SLOW) for each in ((1, ()), (4, ()), (4, ("train.replicas=2",))))],
)
def test_every_world_size_trains_the_same_run(
    straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path, world: int, more: tuple[str]
) -> None:
    tiny, one = straight
    cold = world == 2  # one of them as a cluster starts it
    done = torchrun(world, *command(tiny, prepared, tmp_path / "run", *more), cold=cold)
    assert f"done at step {STEPS}" in done.stdout, done.stderr
    assert done.stdout.count("parameters") == 1  # one of them speaks
    expected, found = losses(one), losses(tmp_path / "run")
    assert found.keys() == expected.keys() == set(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-6)
    parts = {path.name for path in (tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}").glob("model-*")}
    writers = world // 2 if more else world  # of equal copies one writes
    assert parts == {f"model-{rank:05d}-00001.safetensors" for rank in range(writers)}


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [("muon", ()), *(pytest.param(*each, marks=SLOW) for each in (("muon", ("train.replicas=2",)), ("spectron", ())))],
)
def test_orthogonal_updates_at_every_world_size(
    lost: Callable[..., Any],
    straight: tuple[Path, Path],
    prepared: Dataset,
    tmp_path: Path,
    optimizer: str,
    more: tuple[str, ...],
) -> None:
    """Rows of a matrix on several processes: 25 steps of two, then 25 of four, against one process."""
    tiny, sets = straight[0], (f"optimizer.name={optimizer}", "optimizer.lr=0.02")
    assert lost(*command(tiny, prepared, tmp_path / "one", *sets, "train.stop_after=50")[2:]).code == 0
    for world, stop in ((2, 25), (4, 50)):
        done = torchrun(world, *command(tiny, prepared, tmp_path / "run", *sets, *more, f"train.stop_after={stop}"))
        assert done.returncode == 0, done.stderr
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "run")
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-6)


CRAMPED = (
    "import lost.backends.torch.engine as engine; from lost.cli.main import main\n"
    "engine.fits_whole = lambda *_: False\n"
    "main()"
)


def test_without_room_blocks_are_gathered_one_by_one(
    straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path
) -> None:
    tiny, one = straight
    done = torchrun(2, "-c", CRAMPED, *command(tiny, prepared, tmp_path / "run", "train.stop_after=20")[2:])
    assert done.returncode == 0, done.stderr
    found, expected = losses(tmp_path / "run"), losses(one)
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in range(1, 21)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (("train.checkpoint_activations=narrow", "projection.short_conv_width=3"), 1e-6),
        (("train.checkpoint_activations=full", "train.dtype=bfloat16"), 1e-2),
        pytest.param(("train.compile=true", "train.dtype=bfloat16"), 1e-2, marks=pytest.mark.slow),
        pytest.param(("train.compile=true", "train.checkpoint_activations=narrow"), 1e-6, marks=pytest.mark.slow),
    ],
)
def test_policies_and_types_work_as_on_one_device(
    lost: Callable[..., Any],
    straight: tuple[Path, Path],
    prepared: Dataset,
    tmp_path: Path,
    settings: tuple[str],
    tolerance: float,
) -> None:
    tiny, _ = straight
    settings = (*settings, "train.stop_after=5", "train.micro_batch_size=2")
    assert lost(*command(tiny, prepared, tmp_path / "one", *settings)[2:]).code == 0
    done = torchrun(2, *command(tiny, prepared, tmp_path / "two", *settings))
    assert done.returncode == 0, done.stderr
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert found.keys() == expected.keys() == set(range(1, 6))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=tolerance)


LOADED = """
import sys, numpy as np
from pathlib import Path
from lost.backends.torch import create, join
from lost.checkpoint import open_checkpoint
workers = join()
for path in sys.argv[1:]:
    found = open_checkpoint(Path(path))
    engine = create(found.config.replace("train", batch_size=6), "cpu", workers)  # which three can share
    engine.load(found.parameters(workers.rank, workers.world_size))
    engine.load_optimizer_state(found.moments(workers.rank, workers.world_size), found.progress.step)
    whole = dict(found.parameters()) | dict(found.moments())
    seen = 0
    for name, rows in (*engine.dump(), *engine.optimizer_state()):
        first = engine.first_rows.get(name, 0)
        assert rows.tobytes() == whole[name][first : first + len(rows)].tobytes(), name
        seen += rows.size
    assert workers.all_reduce(seen) == sum(array.size for array in whole.values())
workers.close()
print("equal")
"""


def test_what_any_world_size_saved_any_other_loads(
    lost: Callable[..., Any], straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path
) -> None:
    """One after the other in every direction: arrays to the bit, losses as if nobody had changed."""
    tiny, one = straight
    run = tmp_path / "run"
    for world, stop in ((2, 20), (4, 40), (0, 60), (2, 80)):
        arguments = command(tiny, prepared, run, f"train.stop_after={stop}")
        if world:
            torchrun(world, *arguments)
        else:
            assert lost(*arguments[2:]).code == 0
        checkpoint = run / "checkpoints" / f"step-{stop:08d}"
        assert checkpoint.exists()
    found, expected = losses(run), losses(one)
    assert set(found) == set(range(1, 81))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    samples = [row["samples"] for row in rows if "samples" in row]
    assert samples == [[8 * step, 8 * step + 7] for step in range(80)]  # no gap, nothing twice
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in found], rtol=0, atol=1e-6)
    saved_by = {2: 20, 4: 40}
    done = torchrun(3, "-c", LOADED, *(run / "checkpoints" / f"step-{step:08d}" for step in saved_by.values()))
    assert done.stdout.count("equal") == 3, done.stderr
    assert open_checkpoint(run / "checkpoints" / "step-00000080").progress.samples == 8 * 80


def test_resume_at_the_same_world_size_is_bit_exact(
    straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path
) -> None:
    tiny, _ = straight
    for run, stops in (("straight", (20,)), ("resumed", (13, 20))):
        for stop in stops:
            torchrun(2, *command(tiny, prepared, tmp_path / run, f"train.stop_after={stop}"))
    states = []
    for run in ("straight", "resumed"):
        found = open_checkpoint(tmp_path / run / "checkpoints" / "step-00000020")
        states.append({name: array.tobytes() for name, array in (*found.parameters(), *found.moments())})
    assert states[0] == states[1]
    assert losses(tmp_path / "straight") == losses(tmp_path / "resumed")


def test_all_of_them_stop_early(straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path) -> None:
    settings = ("train.eval_every=2", "train.early_stop={patience: 3, min_delta: 100}")
    done = torchrun(2, *command(straight[0], prepared, tmp_path / "run", *settings))
    assert done.returncode == 0, done.stderr
    assert "stopped early at step 8: none of the last 3 validations" in done.stdout
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000008").progress.best.since == 3


def test_noise_of_gradients_that_are_reduced(straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path) -> None:
    """Both estimates together say how long the whole gradient is, which the next step has."""
    settings = ("train.noise_scale_every=2", "train.stop_after=5")
    done = torchrun(2, *command(straight[0], prepared, tmp_path / "run", *settings))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    lengths = {row["step"]: row["grad_norm"] for row in rows if "grad_norm" in row}
    found = [row for row in rows if "noise_scale" in row]
    assert [row["step"] for row in found] == [2, 4]
    for row in found:
        whole = row["gradient_square"] + row["gradient_variance"] / row["batch_tokens"]
        assert whole == pytest.approx(lengths[row["step"] + 1] ** 2, rel=1e-4)


@pytest.mark.parametrize("more", [(), pytest.param(("train.replicas=2",), marks=SLOW)])
def test_samples_of_a_model_that_is_sharded(
    straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path, more: tuple[str]
) -> None:
    """They are what one process writes with the same weights; the run stays as it is."""
    sampled = ("train.sample_every=5", "train.sample_tokens=6", "train.sample_prompts=[the, rank]", *more)
    for name, settings in (("plain", more), ("run", sampled)):
        done = torchrun(2, *command(straight[0], prepared, tmp_path / name, "train.stop_after=20", *settings))
        assert done.returncode == 0, done.stderr
    plain, run = (open_checkpoint(tmp_path / name / "checkpoints" / "step-00000020") for name in ("plain", "run"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "run")
    weights = [{name: array.tobytes() for name, array in each.parameters()} for each in (plain, run)]
    assert weights[0] == weights[1]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["texts"] for row in rows if "texts" in row}
    assert list(found) == [5, 10, 15, 20]
    engine = create_engine(run.config, "torch", "cpu")
    engine.load(run.parameters())
    assert found[20] == write_samples(engine, run.config, prepared.tokenizer, 20)
    assert done.stdout.count("step 20/20  sample 2 of 2") == 1  # one of them speaks


def test_what_workers_refuse(straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path) -> None:
    tiny, _ = straight
    for setting, words in (
        ("train.replicas=3", "2 workers can't form that many equal groups"),
        ("train.batch_size=2", "they don't divide among 2 workers"),
        ("optimizer.name=adamw8bit", "its state can't be split by rows"),
        ("train.inspect_every=5", "no worker holds a whole weight"),
    ):
        done = torchrun(2, *command(tiny, prepared, tmp_path / "run", setting))
        assert words in done.stderr
        assert not (tmp_path / "run").exists()


def test_dry_run(straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path) -> None:
    """One answers for all; where rank 0 refuses, all leave."""
    tiny, one = straight
    done = torchrun(2, *command(tiny, prepared, tmp_path / "run"), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["workers"], value["devices"], value["steps_to_go"]) == (2, ["cpu", "cpu"], STEPS)
    assert not (tmp_path / "run").exists()
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    done = torchrun(2, *command(tiny, prepared, one, "optimizer.lr=1"), "--dry-run")
    assert done.returncode == 1
    assert done.stderr.count("optimizer.lr = 1.0, was 0.01") == 1
    assert "another worker can't start, and reports why" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*")} == before


def test_workers_that_see_different_folders(straight: tuple[Path, Path], prepared: Dataset, tmp_path: Path) -> None:
    tiny, _ = straight
    script = (
        "import os, sys; from lost.cli.main import main\n"
        "sys.argv[sys.argv.index('--out') + 1] += os.environ['RANK']\n"
        "main()"
    )
    done = torchrun(2, "-c", script, *command(tiny, prepared, tmp_path / "run")[2:])
    assert "is not the same folder on all 2 workers" in done.stderr
    assert not (tmp_path / "run0" / "checkpoints").exists()


HELD_UP = """
import atexit, ctypes
from lost.cli.main import main
from lost.distributed import launcher
launcher.LONGEST_EXIT = 1
atexit.register(ctypes.PyDLL(None).sleep, 3600)  # as a device waits for a worker that is gone, and keeps the lock
main()
"""


def test_an_exit_that_is_held_up_ends_all_the_same(tmp_path: Path) -> None:
    done = run_python("-c", HELD_UP, "train", tmp_path / "none.yaml", TORCHELASTIC_RUN_ID="x")
    assert "none.yaml" in done.stderr
    assert done.returncode == -signal.SIGALRM
