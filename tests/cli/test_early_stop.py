"""Runs that end before their schedule does, where validations get no better."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import BestLoss, open_checkpoint
from lost.config import EarlyStop
from lost.data.dataset import Dataset

Train = Callable[..., object]
STOPS = ("train.early_stop={patience: 3, min_delta: 100}", "train.log_every=0")  # which no loss is better by


@pytest.fixture
def train(lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Train:
    """Train the tiny model, evaluated every two steps, in a folder of that name, with settings."""

    def call(name: str, *settings: str) -> object:
        sets = [word for setting in ("train.eval_every=2", *settings) for word in ("--set", setting)]
        return lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / name, "--device", "cpu", *sets)

    return call


def outcome(run: Path) -> tuple[dict[str, bytes], list[float], tuple]:
    """Return weights and moments of the newest checkpoint, the validations' losses, and what came of judging them."""
    found = open_checkpoint(run / (run / "latest").read_text().strip())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    arrays = {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}
    return arrays, losses, (found.progress.step, found.progress.best)


def test_a_loss_is_better_by_the_margin_than_the_best_before() -> None:
    best, judged = BestLoss(), []
    for step, loss in enumerate([4.0, 3.0, 3.2, None, 2.95, 2.9, 2.8]):
        best = best.after(loss, step, EarlyStop(patience=9, min_delta=0.1))
        judged.append((best.loss, best.since))
    assert judged == [(4.0, 0), (3.0, 0), (3.0, 1), (3.0, 2), (3.0, 3), (3.0, 4), (2.8, 0)]


def test_it_ends_saves_itself_and_says_why(lost: Callable, train: Train, tmp_path: Path) -> None:
    """On screen, in log.txt and in the checkpoint; the same command does nothing more, more patience goes on."""
    run = tmp_path / "run"
    done = train("run", *STOPS)
    assert done.code == 0, done.err
    losses, end = outcome(run)[1:]
    assert end == (8, BestLoss(losses[0], 2, 3))
    why = f"step 8: none of the last 3 validations was more than 100 below the best loss, {losses[0]:.4f} of step 2"
    assert f"stopped early at {why}" in done.out
    assert f"stopped early at {why}" in (run / "log.txt").read_text()
    assert f"stopped early at step 8: {run}/checkpoints/step-00000008" in done.out
    assert json.loads(lost("train", run, "--dry-run", "--json", "--device", "cpu").out)["steps_to_go"] == 0
    again = lost("train", run, "--json", "--device", "cpu")
    assert (json.loads(again.out)["step"], json.loads(again.out)["stopped_early"]) == (8, True)
    assert f"{why} (train.early_stop); raise train.early_stop.patience, or set train.early_stop=null" in again.err
    assert outcome(run)[1] == losses
    assert lost("verify", run).code == 0
    branch = lost("train", "--branch-from", run, "--out", tmp_path / "branch", "--json", "--device", "cpu")
    assert json.loads(branch.out)["step"] == 16  # which judges anew
    on = lost("train", run, "--set", "train.early_stop.patience=5", "--json", "--device", "cpu")
    assert (json.loads(on.out)["step"], json.loads(on.out)["stopped_early"]) == (12, True)
    for name in ("run", "straight"):
        assert train(name, "train.early_stop=null").code == 0
    assert outcome(run)[0] == outcome(tmp_path / "straight")[0]  # to the bit: it only ended


def test_where_it_ends_does_not_depend_on_interruptions(train: Train, tmp_path: Path) -> None:
    """Nor does a validation count that only a stop has brought about."""
    assert train("straight", *STOPS).code == 0
    for stop in (1, 3, 6, 7):
        assert train("run", *STOPS, f"train.stop_after={stop}").code == 0
    assert train("run", *STOPS).code == 0
    (arrays, _, end), (expected, _, meant) = outcome(tmp_path / "run"), outcome(tmp_path / "straight")
    assert end == meant
    assert arrays == expected


def test_a_rule_that_can_not_work_is_refused(train: Train, tmp_path: Path) -> None:
    for settings, words in (
        (["train.early_stop={patience: 2, min_delta: -1}"], "train.early_stop.min_delta = -1: "),
        (["train.early_stop={patience: 0}"], "train.early_stop.patience = 0: "),
        (["train.early_stop={min_delta: 1}"], "train.early_stop.patience: missing"),
        (["train.early_stop={patience: 1, patiense: 1}"], "unknown key; did you mean 'patience'?"),
        (["train.early_stop={patience: 2}", "train.eval_every=0"], "eval_every = 0 makes none"),
    ):
        refused = train("run", *settings)
        assert refused.code == 2, settings
        assert words in refused.err
    assert not (tmp_path / "run").exists()
