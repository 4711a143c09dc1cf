"""Runs that become longer than they were meant to be, and runs that branch."""

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


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_branch_that_keeps_the_schedule_is_the_run(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    """To the bit, under the run's name for its data; and it resumes when that run is gone."""
    where = ("--backend", backend, "--device", "cpu")
    assert lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", *where).code == 0
    arrays, reported = outcome(tmp_path / "run", 20)
    command = ("train", "--branch-from", f"{tmp_path / 'run'}@10", "--out", tmp_path / "branch", *where)
    planned = json.loads(lost(*command, "--dry-run", "--json").out)
    assert (planned["step"], planned["steps_to_go"], (tmp_path / "branch").exists()) == (10, 10, False)
    begun = lost(*command, "--set", "train.stop_after=13")
    assert begun.code == 0, begun.err
    assert "going on from step 10 of" in begun.out
    (tmp_path / "run").rename(tmp_path / "gone")
    assert lost(*command).code == 0
    assert outcome(tmp_path / "branch", 20) == (arrays, reported[10:])
    assert lost("verify", tmp_path / "branch").code == 0


def test_one_stable_run_decays_at_several_points(lost: Callable, train: Train, tmp_path: Path) -> None:
    assert train("stable", "schedule.name=constant").code == 0
    decay = ("--set", "schedule.name=wsd", "--set", "schedule.decay_steps=4")
    for step in (10, 20):
        command = ("train", "--branch-from", f"{tmp_path / 'stable'}@{step}", "--out", tmp_path / f"at{step}")
        done = lost(*command, *decay, "--set", f"schedule.steps={step + 4}", "--device", "cpu")
        assert done.code == 0, done.err
        rates = [lr for _, _, lr, _ in outcome(tmp_path / f"at{step}", step + 4)[1]]
        assert rates == pytest.approx([0.775e-2, 0.55e-2, 0.325e-2, 0.1e-2])
        start = open_checkpoint(checkpoint_path(tmp_path / f"at{step}" / "checkpoints", step))
        assert (start.progress.samples, start.progress.tokens) == (step * 4, step * 4 * 16)
    again = ("train", "--branch-from", tmp_path / "at20", "--out", tmp_path / "again", "--device", "cpu", "--set",
             "schedule.steps=25", "--set", "optimizer.lr=1e-3")  # fmt: skip
    assert lost(*again).code == 0
    shown = lost("inspect", tmp_path / "again").out
    sources = [tmp_path / name / "checkpoints" / f"step-{step:08d}" for name, step in (("at20", 24), ("stable", 20))]
    assert "".join(f"branched from {path}\n" for path in sources) in shown
    for other in (("--branch-from", tmp_path / "at20@20"), ("--init-from", tmp_path / "at20")):
        refused = lost("train", *other, "--out", tmp_path / "again", "--device", "cpu")
        assert refused.code == 2
        assert "branched from" in refused.err


def test_a_run_may_be_called_as_checkpoints_are(lost: Callable, train: Train, tmp_path: Path) -> None:
    assert train("step-decay", "train.stop_after=10").code == 0
    shown = lost("inspect", tmp_path / "step-decay")
    assert shown.code == 0, shown.err


def test_a_branch_may_bound_gradients_otherwise(lost: Callable, train: Train, tmp_path: Path) -> None:
    assert train("run", "schedule.name=constant", "train.stop_after=10").code == 0
    done = lost("train", "--branch-from", tmp_path / "run", "--out", tmp_path / "branch", "--device", "cpu", "--set",
                "train.grad_clip=0.1", "--set", "train.skip_spikes=3", "--set", "train.z_loss=1e-4")  # fmt: skip
    assert done.code == 0, done.err


def test_what_can_not_branch_is_refused(lost: Callable, train: Train, tmp_path: Path) -> None:
    """Each in words, with nothing written."""
    run = tmp_path / "run"
    assert train("run").code == 0
    for given, words in (
        ((f"{run}@13",), f"has no checkpoint of step 13; expected one that was kept (train.keep_every keeps more); "
                         f"nearest: {run}@10 and {run}@20"),
        ((f"{run}/checkpoints/step-00000010@5", "--set", "schedule.steps=15"), "is the checkpoint of step 10; exp"),
        ((run,), "schedule.steps = 20: the branch begins at step 20"),
        ((f"{run}@10", "--set", "train.batch_size=8"), "train.batch_size = 8, was 4. Expected the same but"),
        ((f"{run}@10", "--set", "optimizer.name=muon"), "optimizer.name = 'muon', was 'adamw'"),
        ((f"{run}@10", "--init-from", run), "leave out the other"),
        ((tmp_path / "nowhere@10",), "doesn't exist"),
    ):  # fmt: skip
        refused = lost("train", "--out", tmp_path / "branch", "--device", "cpu", "--branch-from", *given)
        assert refused.code == 2, given
        assert words in refused.err
        assert not (tmp_path / "branch").exists()
