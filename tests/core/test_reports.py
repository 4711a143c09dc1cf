"""What a training tells while it goes: every step, what it does, and the mean loss, without waiting for a device."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, Engine, StepResult, create_engine
from lost.tracking import Tracker
from lost.tracking.metrics import FILE
from lost.training.signals import Stop
from lost.training.trainer import train

EVENTS = ("phase", "advance", "step", "validation", "checkpoint")


class Diary(Tracker):
    """Everything that is told, and after which step the device was waited for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        for name in EVENTS:
            setattr(self, name, lambda what, name=name: self.told.append((name, what)))

    def of(self, *names: str) -> list[tuple[str, Any]]:
        return [(name, what["step"] if isinstance(what, dict) else what) for name, what in self.told if name in names]


def trained(
    config: Config, folder: Path, dataset: Dataset, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> tuple[Diary, list[int], list[dict[str, Any]]]:
    """Train; return what was told, the number of steps begun at each wait, and the rows that report a step."""
    diary, waits, step, begun = Diary(), [], engine.step, 0

    def watched(*arguments: Any) -> StepResult:
        nonlocal begun
        begun += 1
        result = step(*arguments)

        def wait() -> tuple[float, float]:
            waits.append(begun)
            return result.wait()

        return StepResult(wait)

    monkeypatch.setattr(engine, "step", watched)
    folder.mkdir(exist_ok=True)
    train(config, folder, dataset, engine, diary)
    rows = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return diary, waits, [row for row in rows if "loss" in row]


@pytest.fixture
def small(config: Callable[..., Config], prepared: Dataset) -> Callable[..., Config]:
    def make(**settings: Any) -> Config:
        return config(model={"vocab_size": prepared.tokenizer.vocab_size}, train={"eval_tokens": 64, **settings})

    return make


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mean_since_the_last_row_waits_for_nothing_more(
    small: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Rows at 4, 8, and 10, the end. Losses are looked at there, and where spikes are, after 6 steps: as before."""
    each, every = ({"save_every": 0, "eval_every": 0, "max_skipped": 6, "log_every": every} for every in (1, 4))
    _, _, single = trained(
        small(**each), tmp_path / "each", prepared, create_engine(small(**each), backend, "cpu"), monkeypatch
    )
    _, waits, rows = trained(
        small(**every), tmp_path / "every", prepared, create_engine(small(**every), backend, "cpu"), monkeypatch
    )
    assert set(waits) == {4, 6, 8, 10}
    assert [row["step"] for row in rows] == [4, 8, 10]
    losses = [row["loss"] for row in single]
    assert [row["loss_mean"] for row in single] == losses
    assert [row["loss"] for row in rows] == [losses[3], losses[7], losses[9]]
    means = [sum(losses[first:last]) / (last - first) for first, last in ((0, 4), (4, 8), (8, 10))]
    assert [row["loss_mean"] for row in rows] == means


def test_every_step_and_what_is_done(
    small: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(log_every=5, eval_every=5, save_every=5)
    diary, *_ = trained(config, tmp_path, prepared, create_engine(config, "torch", "cpu"), monkeypatch)
    assert diary.of("advance") == [("advance", step) for step in range(1, 11)]
    told = diary.of("phase", "advance", "step", "validation")
    assert told[:4] == [
        ("phase", "computing initial weights"), ("phase", "waiting for the first step"), ("phase", "training"),
        ("advance", 1),
    ]  # fmt: skip
    fifth = told.index(("advance", 5))
    assert told[fifth + 1 : fifth + 6] == [
        ("step", 5), ("phase", "evaluating"), ("validation", 5), ("phase", "training"), ("phase", "saving"),
    ]  # fmt: skip
    assert {what for _, what in diary.of("phase")} == {
        "computing initial weights", "waiting for the first step", "training", "evaluating", "saving"
    }  # fmt: skip
    assert diary.of("phase")[-1] == ("phase", "training")


def test_never_means_at_the_end_alone(
    small: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(log_every=0, eval_every=0, save_every=0)
    diary, *_ = trained(config, tmp_path, prepared, create_engine(config, "torch", "cpu"), monkeypatch)
    assert diary.of("step", "validation", "checkpoint") == [("step", 10), ("validation", 10), ("checkpoint", 10)]


def test_an_evaluation_that_is_stopped_is_no_time_of_training(
    small: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked, ticks, hours = small(log_every=0, eval_every=5, save_every=0), Stop(), itertools.count(), [0]

    def stopped(where: str) -> None:
        if where == "evaluation.round":
            hours[0], asked.requested = 10_000, True

    monkeypatch.setattr("lost.training.run.failpoint", stopped)
    monkeypatch.setattr("lost.training.run.time.perf_counter", lambda: next(ticks) + hours[0])
    tmp_path.joinpath("run").mkdir()
    result = train(config, tmp_path / "run", prepared, create_engine(config, "torch", "cpu"), Diary(), asked=asked)
    assert (result.interrupted, result.progress.step) == (True, 5)
    assert 0 < result.progress.seconds < 10_000
