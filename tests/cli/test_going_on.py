"""Runs that become longer than they were meant to be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.data.dataset import Dataset

Train = Callable[..., object]


@pytest.fixture
def train(lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Train:
    """Train the tiny model in a folder of that name, with settings."""

    def call(name: str, *settings: str) -> object:
        sets = [word for setting in settings for word in ("--set", setting)]
        return lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / name, "--device", "cpu", *sets)

    return call


def outcome(run: Path, step: int) -> tuple[dict[str, bytes], list[tuple]]:
    """Return weights and moments of a step, and what was reported up to it."""
    found = open_checkpoint(checkpoint_path(run / "checkpoints", step))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reported = [(row["step"], row["loss"], row["lr"], row["samples"]) for row in rows if "loss" in row]
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}, reported


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["name=constant", "steps=20"], ["name=constant", "steps=30"]),
        (["name=wsd", "decay_ratio=0.2", "steps=12"], ["name=wsd", "decay_ratio=0.2", "steps=30"]),
        (["name=constant", "tokens=1280"], ["name=wsd", "tokens=1920"]),  # whose decay was to come
    ],
)
def test_a_run_that_grew_is_the_longer_one(
    lost: Callable, train: Train, tmp_path: Path, before: list[str], after: list[str]
) -> None:
    """To the bit: the rates that it had are those of the longer schedule."""
    first, then = ([f"schedule.{each}" for each in sets] for sets in (before, after))
    assert train("whole", *then).code == 0
    assert train("grown", *first, "train.stop_after=10").code == 0
    done = train("grown", *then)
    assert done.code == 0, done.err
    assert "schedule.steps = 30, was " in done.out
    assert outcome(tmp_path / "grown", 30) == outcome(tmp_path / "whole", 30)
    assert lost("verify", tmp_path / "grown").code == 0  # with the checkpoints of the shorter schedule


def test_a_complete_constant_run_says_how_it_goes_on(lost: Callable, train: Train, tmp_path: Path) -> None:
    settings = ("schedule.name=constant", "schedule.steps=4")
    assert train("run", *settings).code == 0
    assert "is complete, at step 4; raise schedule.steps to train on" in train("run", *settings).out
    assert lost("train", tmp_path / "run", "--set", "schedule.steps=5").code == 0
    refused = lost("train", tmp_path / "run", "--set", "schedule.steps=3")
    assert "schedule.steps = 3, was 5" in refused.err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["name=cosine"], ["name=cosine", "steps=30"]),
        (["name=linear"], ["name=linear", "steps=30"]),
        (["name=wsd"], ["name=wsd", "steps=30"]),  # in its decay
        (["name=constant"], ["name=wsd"]),  # which would have decayed
        (["name=constant", "warmup_steps=2"], ["name=constant", "steps=30", "warmup_steps=3"]),
    ],
)
def test_what_would_have_had_other_rates_is_refused(
    train: Train, tmp_path: Path, before: list[str], after: list[str]
) -> None:
    first, then = ([f"schedule.{each}" for each in sets] for sets in (before, after))
    assert train("run", *first, "train.stop_after=19").code == 0
    kept = (tmp_path / "run" / "config.yaml").read_bytes()
    refused = train("run", *then)
    assert refused.code == 2
    assert "or a schedule with the rates of the 19 steps so far (constant has them at any step, wsd " in refused.err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == kept
