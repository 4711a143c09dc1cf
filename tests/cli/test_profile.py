"""`lost train --profile`: a trace of some steps, beside a run that is the same to the bit."""

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest

from lost.backends import mlx as mlx_backend
from lost.backends import torch as torch_backend
from lost.checkpoint import checkpoints, open_checkpoint
from lost.data.dataset import Dataset
from lost.errors import BackendError


@pytest.fixture
def train(lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Callable:
    def call(name: str, *more: object) -> object:
        command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / name, "train.log_every=1")
        return lost(*command, "--backend", "torch", "--device", "cpu", *more)

    return call


def arrays(run: Path) -> dict[str, bytes]:
    found = open_checkpoint(checkpoints(run / "checkpoints")[-1])
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


def test_three_steps_after_the_first_three(train: Callable, tmp_path: Path) -> None:
    """What a browser opens holds three optimizer steps; the run isn't changed by it, and a resume traces anew."""
    assert train("plain").code == 0
    done = train("traced", "--profile", "train.stop_after=10")
    assert done.code == 0, done.err
    file = tmp_path / "traced" / "profile" / "from-step-00000004.json"
    assert f"profile of 3 steps: {file}" in " ".join(done.out.split())
    events = json.loads(file.read_text())["traceEvents"]
    counts = Counter(each.get("name") for each in events)
    assert (counts["aten::_fused_adamw_"], counts["aten::embedding"]) == (3, 6)  # two micro-batches a step
    assert train("traced", "--profile").code == 0
    assert (tmp_path / "traced" / "profile" / "from-step-00000014.json").exists()
    assert arrays(tmp_path / "traced") == arrays(tmp_path / "plain")


def test_a_run_that_is_over_before(train: Callable, tmp_path: Path) -> None:
    done = train("short", "--profile", "train.stop_after=2")
    assert done.code == 0
    assert "no profile: it begins after 3 steps, and there were 2" in done.out
    done = train("short", "--profile", "train.stop_after=6")  # four more, one of them traced
    assert "profile of 1 step: " in " ".join(done.out.split())


def test_what_fails_ends_no_training(train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in the profile's place is not followed, a trace that can't be written is said."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked" / "profile").symlink_to(tmp_path / "elsewhere")
    done = train("linked", "--profile")
    assert done.code == 0
    assert done.out.count("no profile: ") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []

    @contextmanager
    def failing(path: Path):
        yield path
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch_backend, "tracing", lambda device: failing)
    done = train("full", "--profile")
    assert done.code == 0
    assert "no profile: [Errno 28] No space left on device; training goes on" in " ".join(done.out.split())


def test_mlx_has_one_on_metal_alone(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = ("--data", prepared.path, "--out", tmp_path / "run", "--backend", "mlx", "--device", "cpu", "--profile")
    refused = lost("train", tiny_yaml, *on)
    assert refused.code == 2
    assert "MLX has no trace of a CPU, only Metal's capture" in " ".join(refused.err.split())
    assert not (tmp_path / "run").exists()

    monkeypatch.delenv("MTL_CAPTURE_ENABLED", raising=False)
    with pytest.raises(BackendError, match="put MTL_CAPTURE_ENABLED=1 before the command"):
        mlx_backend.tracing("gpu")
    monkeypatch.setenv("MTL_CAPTURE_ENABLED", "1")
    told = []
    monkeypatch.setattr(mx.metal, "start_capture", told.append)
    monkeypatch.setattr(mx.metal, "stop_capture", lambda: told.append("end"))
    with mlx_backend.tracing("gpu")(tmp_path / "trace") as file:
        told.append("steps")
    assert told == [str(file), "steps", "end"]
    assert file.name == "trace.gputrace"
