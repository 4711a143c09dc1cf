"""`train.dtype: auto`: measured where a run begins, kept by the run, and left alone by all else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.bench import precision
from lost.bench.precision import with_dtype
from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import SingleProcess
from lost.planning.budget import budget

BACKENDS = ("torch", "mlx")


def takes(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Have steps in each type take so long; a type that isn't named isn't to be measured."""
    monkeypatch.setattr(precision, "_seconds", lambda config, *rest: seconds[config.train.dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_types_are_measured(backend: str, config: Callable[..., Config]) -> None:
    said: list[str] = []
    chosen = with_dtype(config(train={"dtype": "auto"}), backend, "cpu", 1 << 40, said.append)
    assert chosen.train.dtype in ("float32", "bfloat16")
    assert said[0] == "train.dtype = auto: measuring 10 steps in float32 and in bfloat16"
    assert said[1].startswith(f"train.dtype = auto: {chosen.train.dtype} (a step of 1 x 8 tokens: float32 ")


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.9, "bfloat16"), (0.99, "float32"), (3.0, "float32")])
def test_bfloat16_must_be_worth_it(
    bfloat16: float, chosen: str, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, float32=1.0, bfloat16=bfloat16)
    assert with_dtype(config(train={"dtype": "auto"}), "torch", "cpu", 1 << 40, print).train.dtype == chosen


def test_a_single_possibility_is_not_measured(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch)
    pure = config(train={"dtype": "auto", "param_dtype": "bfloat16"})
    assert with_dtype(pure, "torch", "cpu", 1 << 40, print).train.dtype == "bfloat16"
    long = config(train={"dtype": "auto", "batch_size": 64, "micro_batch_size": 64})
    room = budget(long.replace("train", dtype="bfloat16"), "torch", "cpu").memory.total
    assert room < budget(long, "torch", "cpu").memory.total
    assert with_dtype(long, "torch", "cpu", room, print).train.dtype == "bfloat16"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_keeps_its_type(
    backend: str,
    lost: Callable[..., Any],
    tiny_yaml: Path,
    prepared: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit: resumed by the file that says auto, and by its folder."""
    tiny_yaml.write_text(tiny_yaml.read_text().replace("train:\n", "train:\n  dtype: auto\n"))

    def train(name: str, *more: object, config: object = tiny_yaml) -> str:
        place = ("--data", prepared.path, "--backend", backend, "--device", "cpu", "--out", tmp_path / name)
        answer = lost("train", config, *place, *more)
        assert answer.code == 0, answer.err
        return answer.err

    takes(monkeypatch, float32=1.0, bfloat16=0.5)
    assert "train.dtype = auto: bfloat16" in train("run", "--set", "train.stop_after=5")
    assert "  dtype: bfloat16\n" in (tmp_path / "run" / "config.yaml").read_text()
    takes(monkeypatch)
    assert "auto" not in train("run", "--set", "train.stop_after=10")
    train("run", "--set", "train.stop_after=null", config=tmp_path / "run")
    train("whole", "--set", "train.dtype=bfloat16")
    ends = [open_checkpoint(tmp_path / name / "checkpoints" / "step-00000020") for name in ("run", "whole")]
    assert ends[0].config.train.dtype == "bfloat16"
    for own, other in zip(*(each.parameters() for each in ends), strict=True):
        assert own[0] == other[0]
        assert own[1].tobytes() == other[1].tobytes()


def test_what_only_looks_does_not_measure(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch)
    auto = ("--set", "train.dtype=auto")
    assert "computed in float32" in lost("plan", tiny_yaml, "--device", "cpu", *auto).out
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--dry-run", *auto)
    assert answer.code == 0, answer.err


def test_what_is_refused(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ("train", tiny_yaml, "--data", prepared.path, "--backend", "torch", "--device", "cpu")
    answer = lost(*train, "--out", tmp_path / "run", "--set", "train.dtype=half")
    assert (answer.code, "train.dtype = 'half'" in answer.err, "auto" in answer.err) == (2, True, True), answer.err
    (tmp_path / "sweep.yaml").write_text(f"config: {tiny_yaml}\ngrid:\n  train.dtype: [auto, float32]\n")
    answer = lost("sweep", tmp_path / "sweep.yaml", "--data", prepared.path, "--out", tmp_path / "sweep")
    assert answer.code == 2
    assert "train.dtype = auto: each run would choose by itself" in answer.err

    class Two(SingleProcess):
        world_size = 2

    monkeypatch.setattr("lost.backends.torch.join", lambda device: Two())
    answer = lost(*train, "--out", tmp_path / "run", "--set", "train.dtype=auto")
    assert answer.code == 2
    assert "train.dtype = auto, with 2 processes" in answer.err
    assert not (tmp_path / "run").exists()
