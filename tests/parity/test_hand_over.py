"""One run on two backends: from the same seed side by side, and handed over between them."""

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.prepare.sources import Sources
from lost.prepare.text import prepare

Lost = Callable[..., object]
CONFIG = """\
model: {hidden_size: 48, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}
projection: {rank: 12, density: 0.05, align: 8, short_conv_width: 3}
data: {seq_len: 16}
train: {batch_size: 8, micro_batch_size: 4, log_every: 1, eval_every: 0, save_every: 50, keep_last: 9}
optimizer: {lr: 5e-3, weight_decay: 0.05}
schedule: {steps: 200, warmup_steps: 10}
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Real text: a package of Python's standard library."""
    out = tmp_path_factory.mktemp("stdlib") / "data"
    source = Path(sysconfig.get_path("stdlib")) / "email"
    prepare(Sources([source], include=["*.py"]), out, 500, 0.01)
    return Dataset(out)


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("yaml") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def straight(lost: Lost, yaml: Path, text: Dataset) -> Callable[[str], Path]:
    """The run of a backend alone, each made once."""

    def run(backend: str) -> Path:
        folder = yaml.with_name(f"straight-{backend}")
        if not folder.exists():
            done = lost("train", yaml, "--data", text.path, "--out", folder, "--backend", backend,
                        "--device", "cpu")  # fmt: skip
            assert done.code == 0, done.err
        return folder

    return run


def rows(run: Path) -> dict[int, dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in found if "loss" in row}


def test_the_same_losses_for_200_steps(straight: Callable[[str], Path]) -> None:
    expected, found = rows(straight("torch")), rows(straight("mlx"))
    assert list(found) == list(expected) == list(range(1, 201))
    assert expected[200]["loss"] < expected[1]["loss"] - 2  # it learns: the losses don't agree on nothing
    for step, row in found.items():
        assert row["samples"] == expected[step]["samples"]
        assert row["loss"] == pytest.approx(expected[step]["loss"], abs=1e-4), step


@pytest.mark.parametrize(
    "order", [("torch", "mlx", "torch"), pytest.param(("mlx", "torch", "mlx"), marks=pytest.mark.slow)]
)
def test_handed_over_twice(
    lost: Lost, straight: Callable[[str], Path], yaml: Path, text: Dataset, tmp_path: Path, order: tuple[str, ...]
) -> None:
    moved = tmp_path / "moved"
    for backend, stop in zip(order, (50, 100, 150), strict=True):
        done = lost("train", yaml, "--data", text.path, "--out", moved, "--backend", backend, "--device", "cpu",
                    "--set", f"train.stop_after={stop}")  # fmt: skip
        assert done.code == 0, done.err
        assert f"on {backend} cpu" in done.out
    expected, found = rows(straight(order[0])), rows(moved)
    assert list(found) == list(range(1, 151))
    for step, row in found.items():
        assert row["samples"] == expected[step]["samples"]
        assert row["loss"] == pytest.approx(expected[step]["loss"], abs=1e-4), step
        if step <= 50:
            assert row["loss"] == expected[step]["loss"]
    assert [row["samples"][0] for row in found.values()] == list(range(0, 150 * 8, 8))  # unbroken
    for step, backend in ((50, order[1]), (100, order[2])):
        taken_over_is_what_was_saved(moved / "checkpoints" / f"step-{step:08d}", backend)


def taken_over_is_what_was_saved(path: Path, backend: str) -> None:
    """Every bit of weights and moments, through the other backend's load and dump."""
    checkpoint = open_checkpoint(path)
    engine = create_engine(checkpoint.config, backend, "cpu")
    engine.load(checkpoint.parameters())
    engine.load_optimizer_state(checkpoint.moments(), checkpoint.progress.step)
    for saved, held in (
        (checkpoint.parameters(), engine.dump()),
        (checkpoint.moments(), engine.optimizer_state()),
    ):
        expected, found = dict(saved), {name: np.array(value) for name, value in held}
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.dtype == expected[name].dtype
            assert value.tobytes() == expected[name].tobytes(), name
