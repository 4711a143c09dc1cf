"""A loss or gradient that isn't finite, or stands out: that update is left out everywhere, counted, and harms none."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import torchrun

from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.optim.skip_step import DeviceSkipRule
from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, Engine, create_engine
from lost.evaluation.perplexity import Evaluation
from lost.model.init import initial_values
from lost.optim.gradients.skip_step import SkipRule

Lost = Callable[..., Any]
NAN: Any = math.nan  # as a count of predictions it makes every gradient NaN


def state(engine: Engine) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in (*engine.dump(), *engine.optimizer_state())}


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_left_out_changes_nothing(config: Callable[..., Config], backend: str) -> None:
    random, engines = np.random.default_rng(0), []
    batches = [Batch(random.integers(0, 19, (4, 9)).astype(np.int32)) for _ in range(3)]
    for _ in range(2):
        engine = create_engine(config(), backend, "cpu")
        engine.load(initial_values(config()))
        engine.step([batches[0]], 32, 0.01)
        engines.append(engine)
    one, other = engines
    before = state(one)
    loss, norm = one.step([batches[1]], NAN, 0.01).wait()
    assert math.isnan(loss)
    assert math.isnan(norm)
    assert one.guard.state().skipped == one.guard.state().in_a_row == 1
    assert state(one) == before
    assert "model.layers.0.mlp.up_proj.up" in one.suspects()
    assert one.step([batches[2]], 32, 0.01).wait() == other.step([batches[2]], 32, 0.01).wait()
    assert state(one) == state(other)  # the bias correction counts updates, not steps
    assert one.guard.state().in_a_row == 0


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_who_began_is_named_on_an_accelerator_too(config: Callable[..., Config], limit: float, value: float) -> None:
    """There, where asking for the norm would wait, gradients are always clipped: not by a norm that isn't finite."""
    engine = TorchEngine(config(train={"grad_clip": limit}), "cpu")
    engine.load(initial_values(config()))
    name = "model.layers.1.mlp.up_proj.up"
    engine._parameters[name].register_hook(lambda gradient: torch.full_like(gradient, value))
    engine.device = "cuda"  # as it names it; its tensors stay on the CPU
    engine.step([Batch(np.ones((4, 9), np.int32))], 32, 0.01)
    assert engine.suspects() == [name]


def poison(monkeypatch: pytest.MonkeyPatch, backend: str, steps: set[int]) -> None:
    """Spoil the gradients of some steps, counted from 1 and from the data's beginning."""
    from lost.training.run import Run

    step = Run.step

    def spoilt(run: Run, progress: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if progress.step + 1 in steps:
                patch.setattr(run.stream, "predictions", lambda first, count: NAN)
            return step(run, progress)

    monkeypatch.setattr(Run, "step", spoilt)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_goes_on_and_counts(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Steps 10 (where a save is due) and 12 are spoilt; stopped in between and gone on with, the end is the same."""
    poison(monkeypatch, backend, {10, 12})
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--backend", backend, "--device", "cpu", "--out")
    answer = lost(*arguments, tmp_path / "straight")
    assert answer.code == 0, answer.err
    assert "1 update skipped" in answer.out
    assert "loss not finite" in answer.out
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in rows if "loss" in row}
    assert [step for step, row in steps.items() if row["loss"] is None] == [10, 12]
    assert (steps[9]["skipped"], steps[11]["skipped"], steps[20]["skipped"]) == (0, 1, 2)
    assert not (tmp_path / "straight" / "checkpoints" / "step-00000010").exists()  # nothing is saved amid trouble
    for stop in (11, 20):
        assert lost(*arguments, tmp_path / "resumed", "--set", f"train.stop_after={stop}").code == 0
    ends = [open_checkpoint(tmp_path / run / "checkpoints" / "step-00000020") for run in ("straight", "resumed")]
    assert ends[0].progress.guard == ends[1].progress.guard
    assert ends[0].progress.guard.skipped == 2
    arrays = [{n: a.tobytes() for n, a in (*end.parameters(), *end.moments())} for end in ends]
    assert arrays[0] == arrays[1]


def test_too_many_in_a_row_stop_the_run_and_name_the_parameter(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of step 10 stays the newest one, whether or not the steps are logged."""
    poison(monkeypatch, "torch", set(range(13, 100)))
    for out, logged in (("a", 1), ("b", 0)):
        sets = ("schedule.steps=100", f"train.log_every={logged}", "train.max_skipped=4")
        settings = [word for value in sets for word in ("--set", value)]
        answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / out, *settings)
        assert answer.code == 1
        assert "updates in a row were left out; expected finite numbers" in answer.err
        assert "model.embed_tokens.weight" in answer.err
        (saved,) = (tmp_path / out / "checkpoints").iterdir()
        assert saved.name == "step-00000010"
        assert f"go on from what was saved, by --branch-from {saved}" in answer.err


def test_one_spoilt_worker_spoils_no_one(tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """NaN on rank 1 alone: both leave that update out, and stay together."""
    script = (
        "import os, sys; from lost.backends.torch.engine import TorchEngine; from lost.cli.main import main\n"
        "step, calls = TorchEngine.step, []\n"
        "def spoilt(engine, batches, predictions, lr):\n"
        "    calls.append(1); bad = len(calls) == 5 and os.environ['RANK'] == '1'\n"
        "    return step(engine, batches, float('nan') if bad else predictions, lr)\n"
        "TorchEngine.step = spoilt; main()"
    )
    command = ["train", str(tiny_yaml), "--data", str(prepared.path), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = torchrun(2, "-c", script, *command)
    assert "done at step 20" in done.stdout, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["grad_norm"] for row in rows if "loss" in row}
    assert [step for step, norm in found.items() if norm is None] == [5]
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000020").progress.guard.skipped == 1


@pytest.mark.parametrize("factor", [None, 3.0])
def test_both_guards_follow_one_rule(config: Callable[..., Config], factor: float | None) -> None:
    train = config(train={"skip_spikes": factor}).train
    host, device = SkipRule(train), DeviceSkipRule(train, torch.device("cpu"), torch.float64)
    random, skips = np.random.default_rng(1), []
    for number in range(300):
        loss, norm = random.normal(3, 0.1), random.lognormal(0, 0.2)
        norm *= 50 if number % 37 == 36 else 1
        loss, norm = (math.nan if number % 53 == 7 else loss), (math.inf if number % 59 == 9 else norm)
        skips.append(host.should_skip(loss, norm))
        assert device.should_skip(*torch.tensor([loss, norm], dtype=torch.float64)).item() == skips[-1]
        if number == 150:
            device.restore(device.state())
        assert device.state() == host.state()
    assert all(skips[number] for number in range(36, 300, 37)) == (factor is not None)
    assert sum(skips) == host.state().skipped
    usual = host.state().usual_norm  # spikes of 50 were left out of it
    assert (0.8 < usual < 1.3) == (factor is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_ends_amid_trouble_has_not_succeeded(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """The last steps are spoilt, too few to stop the run. Told to keep one checkpoint, it keeps the good one too."""
    poison(monkeypatch, backend, {18, 19, 20})
    evaluated = Evaluation(math.nan, 100, 1)
    monkeypatch.setattr("lost.training.run.evaluate_split", lambda *arguments, **more: evaluated)
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", backend,
               "--set", "train.keep_last=1", "--json")  # fmt: skip
    for _ in range(2):  # the same command again finds the run where it was, and says the same
        answer = lost(*command)
        assert answer.code == 1, answer.out
        assert "ended at step 20 while updates were being left out, the last 3 in a row" in answer.err
        assert json.loads(answer.out)["error"]["kind"] == "DivergedError"
        names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert names == ["step-00000010", "step-00000020"]
    for file in (tmp_path / "run" / "metrics.jsonl", *(tmp_path / "run").rglob("manifest.json")):
        for document in [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines():
            json.loads(document, parse_constant=pytest.fail)
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000020").progress.validation_loss is None


@pytest.mark.parametrize("point", ["step.done:12", "evaluation.round:1"])
def test_interrupted_amid_trouble_it_goes_on_to_the_bit(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Told so after a step, or in a validation after it, which no row tells of before."""
    poison(monkeypatch, "torch", {12, 13})
    command = ("train", tiny_yaml, "--data", prepared.path, "--set", "train.keep_last=1", "--set", "train.log_every=0",
               "--set", "train.eval_every=12", "--device", "cpu", "--out")  # fmt: skip
    assert lost(*command, tmp_path / "straight").code == 0
    monkeypatch.setattr("lost.storage.failpoints._PLAN", f"{point}=term")
    monkeypatch.setattr("lost.storage.failpoints._reached", 0)
    assert lost(*command, tmp_path / "run").code == 143
    held = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert held == ["step-00000010", "step-00000012"]
    guard = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000012").progress.guard
    assert (guard.in_a_row, guard.skipped) == (1, 1)
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "")
    assert lost(*command, tmp_path / "run").code == 0
    ends = [open_checkpoint(tmp_path / run / "checkpoints" / "step-00000020") for run in ("straight", "run")]
    assert {n: a.tobytes() for n, a in ends[0].parameters()} == {n: a.tobytes() for n, a in ends[1].parameters()}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000020"]
