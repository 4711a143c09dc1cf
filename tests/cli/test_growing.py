"""`lost convert --grow`, from a run to a run that trains the larger model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset

Lost = Callable[..., object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("growing")


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, folder: Path) -> Path:
    if not (folder / "run").exists():
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", folder / "run", "schedule.steps=4")
        assert done.code == 0, done.err
    return folder / "run"


def loss(lost: Lost, path: Path) -> float:
    answer = lost("eval", path, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["loss"]


def test_a_run_grows_and_trains_on(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ("train", tiny_yaml, "--data", prepared.path, "--out", "run", "schedule.steps=3")
    assert lost(*begin, "optimizer.name=muon").code == 0
    wider = ("--grow", "hidden=64", "--grow", "intermediate=60", "--grow", "rank=16", "--grow", "density=0.2")
    answer = lost("convert", "run", "wide", *wider, "--moments", "keep", "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["grown"] == {"hidden": 64, "intermediate": 60, "rank": 16, "density": 0.2}
    assert said["parameters"] > 2 * said["parameters_before"]
    assert (said["exact"], said["optimizer"], said["step"]) == (True, True, 3)
    assert lost("verify", "wide").code == 0
    assert loss(lost, Path("wide")) == pytest.approx(loss(lost, Path("run")), abs=1e-5)
    grown = open_checkpoint(Path("wide"))
    assert (grown.config.model.hidden_size, grown.config.model.num_attention_heads) == (64, 8)
    assert (grown.progress.step, grown.progress.validation_loss) == (3, None)

    answer = lost("train", "--branch-from", "wide", "--out", "on", "schedule.steps=5", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["step"] == 5
    assert open_checkpoint(Path("on/checkpoints/step-00000005")).config.model.hidden_size == 64
    answer = lost(
        "train", "--init-from", "wide", "--data", prepared.path, "--out", "anew", "schedule.steps=2", "--json"
    )
    assert json.loads(answer.out)["step"] == 2


def test_a_deeper_model_is_trained_from_its_weights(lost: Lost, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "deep"
    answer = lost("convert", run, out, "--grow", "layers=5")
    assert answer.code == 0, answer.err
    assert "another function than before (stack); weights," in answer.out
    assert f"train on: lost train --init-from {out} --data DATA --out RUN" in answer.out
    assert "weights only" in lost("verify", out).out
    answer = lost("train", "--branch-from", out, "--out", tmp_path / "on", "schedule.steps=6")
    assert answer.code == 2
    assert "it holds weights, and no optimizer state" in answer.err
    options = ("--data", prepared.path, "--out", tmp_path / "on", "schedule.steps=2", "--json")
    answer = lost("train", "--init-from", out, *options)
    assert answer.code == 0, answer.err
    assert open_checkpoint(tmp_path / "on" / "checkpoints" / "step-00000002").config.model.num_hidden_layers == 5
    out = tmp_path / "silent"
    assert lost("convert", run, out, "--grow", "layers=5", "--layers-by", "identity").code == 0
    assert loss(lost, out) == pytest.approx(loss(lost, run), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grow", "depth=5"), "expected KEY=VALUE, with one of layers, hidden, intermediate, rank, density"),
        (("--grow", "hidden=33"), "expected a multiple, such as 64"),
        (("--layers-by", "stack"), "--layers-by stack without --grow"),
        (("--moments", "keep"), "--moments keep without --grow"),
        (("--grow", "rank=16", "--layers-by", "stack"), "no layers are added"),
        (("--grow", "rank=16", "--to", "hf"), "--to hf with --grow"),
        (("--grow", "rank=16", "--dtype", "bfloat16"), "--dtype bfloat16 with --grow"),
        (("--grow", "rank=16", "--weights-only"), "--weights-only with --grow"),
        (("--grow", "rank=16", "--from", "hf"), "--from hf with --grow"),
    ],
)
def test_what_is_refused(lost: Lost, run: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    answer = lost("convert", run, tmp_path / "out", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_moments_that_are_not_there(lost: Lost, run: Path, tmp_path: Path) -> None:
    assert lost("convert", run, tmp_path / "grown", "--grow", "rank=16").code == 0
    answer = lost("convert", tmp_path / "grown", tmp_path / "more", "--grow", "rank=24", "--moments", "keep")
    assert answer.code == 2
    assert "holds no optimizer state; expected a checkpoint as training writes it" in answer.err
    answer = lost("convert", run, tmp_path / "grown", "--grow", "rank=16")
    assert answer.code == 2
    assert "already exists" in answer.err


def test_what_has_no_room_is_refused_before_anything_is_computed(lost: Lost, run: Path, tmp_path: Path) -> None:
    width = open_checkpoint(next(run.glob("checkpoints/*"))).config.model.hidden_size
    answer = lost("convert", run, tmp_path / "huge", "--grow", f"hidden={width * 20_000}")
    assert answer.code == 2
    assert "GiB free" in answer.err
    assert not (tmp_path / "huge").exists()
