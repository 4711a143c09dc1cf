"""The gradient noise scale: unbiased estimates, from gradients as numpy has them, in a run that they leave as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device import device_of
from pydantic import TypeAdapter, ValidationError

from lost.backends.torch.bench import peak_memory
from lost.backends.torch.engine import TorchEngine
from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.model import reference
from lost.model.init import initial_values
from lost.optim.gradients.noise_scale import GradientNoise, estimates
from lost.planning.budget import budget


def rows(run: Path, key: str) -> list[dict]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if key in row]


@pytest.mark.parametrize("sizes", [np.array([8, 8, 8, 8]), np.array([2, 5, 18, 40])])
def test_both_estimates_are_unbiased(sizes: np.ndarray) -> None:
    """Of many draws of gradients whose mean and noise are known; and their ratio, once there are enough."""
    draw, true, spread = np.random.default_rng(0), np.array([0.3, -0.2, 0.1]), np.array([1.0, 2.0, 0.5])
    found, noise = [], GradientNoise()
    for _ in range(20_000):
        means = true + draw.normal(size=(len(sizes), 3)) * spread / np.sqrt(sizes)[:, None]  # of each micro-batch
        shares = means * sizes[:, None] / sum(sizes)
        found.append(estimates([float(each @ each) for each in shares], float(sum(shares) @ sum(shares)), sizes))
        noise = noise.after(*found[-1])
    square, variance = np.mean(found, axis=0)
    assert square == pytest.approx(true @ true, rel=0.03)
    assert variance == pytest.approx(spread @ spread, rel=0.03)
    last = np.mean(found[-20:], axis=0)
    assert noise.scale == pytest.approx((spread @ spread) / (true @ true), rel=0.75)
    assert (noise.square, noise.seen) == (pytest.approx(last[0], rel=1), 20)
    assert GradientNoise().after(-1.0, 1.0).scale is None
    assert np.isnan(estimates([1.0, 0.0], 1.0, [5, 0])).all()  # one micro-batch has all that is learned


def test_means_stay_finite() -> None:
    """Whatever was measured, and whatever a stranger's manifest says."""
    assert GradientNoise(1.0, 2.0, 3).after(np.nan, 1.0) == GradientNoise(1.0, 2.0, 3)
    with pytest.raises(ValidationError):
        TypeAdapter(GradientNoise).validate_python({"square": np.inf, "variance": 1.0, "seen": 1})


def test_the_memory_for_it_is_planned(config: Callable[..., Config]) -> None:
    """That of the gradient of one micro-batch beside the sum; nobody measures a whole batch's, which has no noise."""
    model = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    plain = config(model=model, train={"batch_size": 2, "micro_batch_size": 1})
    settings = plain.replace("train", noise_scale_every=1)
    engine = create_engine(settings, "torch", "cpu")
    assert isinstance(engine, TorchEngine)
    engine.load(initial_values(settings))
    batches = [Batch(np.full((1, 9), number, np.int32)) for number in (1, 2)]
    planned, without = (budget(each).memory for each in (settings, plain))

    def measured_after_a_step() -> None:
        engine.step(batches, 16, 0.0)
        engine.gradient_squares(batches, 16)

    peak = peak_memory("cpu", measured_after_a_step)[1]
    assert peak
    beside = peak - planned.moments  # which the first step makes
    assert without.gradients + without.activations < beside <= planned.gradients + planned.activations


@pytest.mark.parametrize("backend", BACKENDS)
def test_squares_against_the_reference(config: Callable[..., Config], backend: str) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    run = config(model=small, projection={"rank": 2})
    start = dict(initial_values(run))
    engine = create_engine(run, backend, device_of(backend))
    engine.load(start.items())
    tokens = np.random.default_rng(0).integers(0, 19, (4, 9)).astype(np.int32)
    micro_batches = tokens[:2], tokens[2:]
    parts, whole = engine.gradient_squares(map(Batch, micro_batches), tokens[:, 1:].size)
    weights = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in start.items()}
    gradients = [reference.gradients(run, weights, each) for each in micro_batches]
    shares = [np.concatenate([each[name].ravel() for name in each]) * len(batch) / len(tokens)
              for each, batch in zip(gradients, micro_batches, strict=True)]  # fmt: skip
    assert parts == pytest.approx([float(each @ each) for each in shares], rel=1e-4)
    assert whole == pytest.approx(float(sum(shares) @ sum(shares)), rel=1e-4)
    norm = engine.step(map(Batch, micro_batches), tokens[:, 1:].size, 0.0).wait()[1]
    assert norm**2 == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_stays_as_it_is_and_resumes_with_its_means(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--backend", backend, "--set",
               "schedule.steps=7", "--out")  # fmt: skip
    every = ("--set", "train.noise_scale_every=2")
    assert lost(*command, tmp_path / "plain").code == 0
    assert lost(*command, tmp_path / "run", *every).code == 0
    for stop in (2, 5, 7):
        done = lost(*command, tmp_path / "resumed", *every, "--set", f"train.stop_after={stop}")
        assert done.code == 0, done.err
    ends = [open_checkpoint(checkpoint_path(tmp_path / name / "checkpoints", 7)) for name in ("plain", "run")]
    states = [{name: array.tobytes() for name, array in (*end.parameters(), *end.moments())} for end in ends]
    assert states[0] == states[1]
    found = [[{**row, "seconds": 0} for row in rows(tmp_path / name, "noise_scale")] for name in ("run", "resumed")]
    assert found[0] == found[1]
    assert [(row["step"], row["batch_tokens"]) for row in found[0]] == [(2, 64), (4, 64), (6, 64)]
    assert ends[1].progress.noise.seen == 3
    lengths = {row["step"]: row["grad_norm"] for row in rows(tmp_path / "run", "grad_norm")}
    for row in found[0]:  # measured on what the next step read
        whole = row["gradient_square"] + row["gradient_variance"] / 64
        assert whole == pytest.approx(lengths[row["step"] + 1] ** 2, rel=1e-4)
    assert "step 6/7  gradient noise scale " in done.out
    assert lost("verify", tmp_path / "run").code == 0


def test_one_micro_batch_can_not_be_compared(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    refused = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu", "--set",
                   "train.noise_scale_every=2", "--set", "train.micro_batch_size=4")  # fmt: skip
    assert refused.code == 2
    assert "a step is one micro-batch (train.micro_batch_size = 4)" in refused.err
    assert not (tmp_path / "run").exists()
