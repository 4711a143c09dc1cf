"""Branches on other data: weights and moments go on; data, steps and schedule begin anew."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_python

from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.data.dataset import Dataset
from lost.engine import BACKENDS
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def other(prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other text, with the tokenizer of `prepared`."""
    texts = tmp_path_factory.mktemp("other")
    (texts / "a.txt").write_text("".join(f"a train of {number} sparse tokens\n" for number in range(300)))
    prepare(Sources([texts]), texts / "set", load_tokenizer(prepared.path), 0.2)
    return texts / "set"


def rows(run: Path, key: str = "loss") -> list[dict]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if key in row]


def outcome(run: Path, first: int = 0) -> tuple[dict[str, bytes], list[tuple]]:
    """Return weights and moments of step 20, and what was reported after a step."""
    found = open_checkpoint(checkpoint_path(run / "checkpoints", 20))
    reported = [(row["step"], row["loss"], row["lr"], row["samples"]) for row in rows(run) if row["step"] > first]
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}, reported


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_branch_on_other_data_begins_it_anew_with_moments(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, other: Path, tmp_path: Path, backend: str
) -> None:
    """The rate is warmed up again, the new text is read from the first step; resumed and branched, to the bit."""
    where = ("--backend", backend, "--device", "cpu")
    run, straight = tmp_path / "run", tmp_path / "straight"
    assert lost("train", tiny_yaml, "--data", prepared.path, "--out", run, *where).code == 0
    on = ("--data", other, *where)
    command = ("train", "--branch-from", run, *on, "--set", "train.eval_every=10", "--set",
               f"data.also_evaluate.before={prepared.path}")  # fmt: skip
    planned = json.loads(lost(*command, "--out", straight, "--dry-run", "--json").out)
    assert (planned["step"], planned["steps_to_go"], straight.exists()) == (0, 20, False)

    def train(*words: object, **environment: str) -> str:  # each in a process of its own: sums in this one may differ
        done = run_python("-m", "lost", *words, **environment)
        assert done.returncode == (-signal.SIGKILL if environment else 0), done.stderr
        return done.stdout

    begun = train(*command, "--out", straight)
    assert f"going on with weights and moments of {checkpoint_path(run / 'checkpoints', 20)} on other data" in begun
    arrays, reported = outcome(straight)
    assert [lr for _, _, lr, _ in reported[:3]] == [row["lr"] for row in rows(run)[:3]]  # the warm-up again
    assert [samples for *_, samples in reported] == [[4 * step, 4 * step + 3] for step in range(20)]
    assert ["before" in row["also_evaluated"] for row in rows(straight, "validation_loss")] == [True, True]

    weights = tmp_path / "weights"  # alone, they read the same first batch, and then move otherwise
    few = ("--set", "train.stop_after=3", "--set", "train.micro_batch_size=2")
    train("train", "--init-from", run, *on, "--out", weights, *few)
    alone = [row["loss"] for row in rows(weights)]
    assert [alone[0] == reported[0][1], alone[2] == reported[2][1]] == [True, False]

    killed = tmp_path / "killed"
    for point in ("step.done:3=kill", "step.done:13=kill"):  # before its first save, and after
        train(*command, "--out", killed, LOST_FAIL_POINT=point)
    shutil.move(run, tmp_path / "gone")
    train(*command, "--out", killed)
    assert outcome(killed) == (arrays, reported)
    again = tmp_path / "again"  # whose moments are of more updates than it has steps
    train("train", "--branch-from", f"{straight}@10", "--out", again, *where)
    assert outcome(again) == (arrays, reported[10:])
    assert lost("verify", again).code == 0
    shown = lost("inspect", again).out
    here, before = checkpoint_path(straight / "checkpoints", 10), checkpoint_path(run / "checkpoints", 20)
    assert f"branched from {here}\nbranched from {before}, trained on {prepared.path}\n" in shown


def test_other_data_is_refused_where_it_has_other_ids_or_another_s_name(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, other: Path, text_folder: Path, tmp_path: Path
) -> None:
    run, mine, foreign = tmp_path / "run", tmp_path / "mine", tmp_path / "foreign"
    shutil.copytree(prepared.path, mine)
    cut = ("--set", "train.stop_after=2", "--device", "cpu")
    assert lost("train", tiny_yaml, "--data", mine, "--out", run, *cut).code == 0
    prepare(Sources([text_folder]), foreign, 300, 0.1)
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    for given, words in (
        ((), f"{mine} is not the data that {run}/checkpoints/step-00000002 was trained on: it was changed since"),
        (("--data", foreign), f"{foreign} was prepared with another tokenizer than the one of {run}/checkpoints/step"),
    ):
        refused = lost("train", "--branch-from", run, *given, "--out", tmp_path / "branch", "--device", "cpu")
        assert refused.code == 2
        assert words in refused.err
        assert not (tmp_path / "branch").exists()
