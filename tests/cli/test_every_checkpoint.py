"""`lost eval --every-checkpoint`: a run's checkpoints one after the other, each as it is evaluated alone."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lost.data.dataset import Dataset
from lost.engine import BACKENDS
from lost.errors import CheckpointError, DataError
from lost.evaluation.perplexity import Evaluation, evaluate_split
from lost.model.load import load_config
from lost.planning.budget import budget

TASK = """\
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: [" of the layer", " weight xyz"]
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def run(lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 5, 10 and 15, of which the second is damaged."""
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu", "--set",
                "schedule.steps=15", "--set", "train.save_every=5", "--set", "train.keep_last=9",
                "--set", f"data.also_evaluate.own={prepared.path}")  # fmt: skip
    assert done.code == 0, done.err
    (tmp_path / "run" / "checkpoints" / "step-00000010" / "config.json").write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize("backend", BACKENDS)
def test_texts(lost: Callable, run: Path, backend: str) -> None:
    on = ("--backend", backend, "--device", "cpu")
    found = lost("eval", run, "--every-checkpoint", "--json", *on)
    assert found.code == 0, found.err
    assert "skipped: " in found.err
    answers = json.loads(found.out)["checkpoints"]
    places = [run / "checkpoints" / f"step-{step:08d}" for step in (5, 15)]
    alone = [json.loads(lost("eval", place, "--json", *on).out) for place in places]
    assert answers == [
        {"step": step, "tokens_seen": step * 64, **each} for step, each in zip((5, 15), alone, strict=True)
    ]
    shown = [line.split() for line in lost("eval", run, "--every-checkpoint", *on).out.splitlines()]
    assert shown[0] == ["step", "tokens", "loss", "perplexity", "bits/byte", "own", "loss"]
    assert [row[::3] for row in shown[1:]] == [[str(each["step"]), f"{each['perplexity']:.3f}"] for each in answers]


def test_information_capacity(lost: Callable, run: Path) -> None:
    """Bits saved of each token's text, over log2 of a forward pass's FLOPs; of further texts too."""
    answer = json.loads(lost("eval", run, "--json", "--device", "cpu").out)
    flops = budget(load_config(run / "config.yaml")).forward_flops_per_token
    saved = 8 * answer["bytes"] - answer["nll"] / math.log(2)
    assert answer["information_capacity"] == pytest.approx(saved / answer["tokens"] / math.log2(flops))
    assert answer["also_evaluated"]["own"]["information_capacity"] == answer["information_capacity"]


def test_tasks(lost: Callable, run: Path, tmp_path: Path) -> None:
    """The same examples before each question, whichever checkpoint answers."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "rows.jsonl").write_text("".join(json.dumps({"text": f"rank {number}"}) + "\n" for number in range(6)))
    (own / "choice.yaml").write_text(TASK.replace("FOLDER", str(own)))
    command = ("--tasks", "own_choice", "--include-path", own, "--num-fewshot", 2, "--device", "cpu")
    answers = json.loads(lost("eval", run, "--every-checkpoint", "--json", *command).out)["checkpoints"]
    places = [run / "checkpoints" / f"step-{step:08d}" for step in (5, 15)]
    assert [each["results"] for each in answers] == [
        json.loads(lost("eval", place, "--json", *command).out)["results"] for place in places
    ]
    shown = [line.split()[:3] for line in lost("eval", run, "--every-checkpoint", *command).out.splitlines()]
    assert shown == [
        ["task", "metric", "step"],
        *(["own_choice", metric, str(step)] for metric in ("acc", "acc_norm") for step in (5, 15)),
    ]


@pytest.fixture
def amid(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Have something happen before a text is evaluated: each checkpoint has two."""

    def arrange(before: int, happens: Callable[[], object]) -> None:
        evaluated = count(1)

        def call(*arguments: Any, **named: Any) -> Evaluation:
            if next(evaluated) == before:
                happens()
            return evaluate_split(*arguments, **named)

        monkeypatch.setattr("lost.evaluation.perplexity.evaluate_split", call)

    return arrange


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def test_one_that_is_gone_meanwhile_is_skipped(lost: Callable, run: Path, amid: Callable) -> None:
    """As the training that still goes on removes what `train.keep_last` doesn't keep."""
    amid(1, lambda: shutil.rmtree(run / "checkpoints" / "step-00000015"))
    found = lost("eval", run, "--every-checkpoint", "--json", "--device", "cpu")
    assert found.code == 0, found.err
    assert [each["step"] for each in json.loads(found.out)["checkpoints"]] == [5]
    assert found.err.count("skipped: ") == 2


def test_all_of_them_gone(lost: Callable, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **named: object) -> Evaluation:
        raise CheckpointError("it is gone")

    monkeypatch.setattr("lost.evaluation.perplexity.evaluate_split", gone)
    found = lost("eval", run, "--every-checkpoint", "--device", "cpu")
    assert found.code == 2
    assert "none of its checkpoints is there any more" in " ".join(found.err.split())


def test_what_is_known_when_it_ends_early(lost: Callable, run: Path, amid: Callable) -> None:
    """Ctrl-C, and what fails: the answer is of those before; each is shown as soon as it is known."""
    amid(3, raising(KeyboardInterrupt()))
    found = lost("eval", run, "--every-checkpoint", "--json", "--device", "cpu")
    assert found.code == 130
    answer = json.loads(found.out)
    assert ([each["step"] for each in answer["checkpoints"]], answer["interrupted"]) == ([5], True)
    assert f"loss {answer['checkpoints'][0]['loss']:.4f}" in found.err
    amid(3, raising(KeyboardInterrupt()))
    shown = lost("eval", run, "--every-checkpoint", "--device", "cpu")
    assert (shown.code, [line.split()[0] for line in shown.out.splitlines()]) == (130, ["step", "5"])
    amid(3, raising(DataError("the text is gone")))
    failed = lost("eval", run, "--every-checkpoint", "--json", "--device", "cpu")
    assert failed.code == 2
    assert json.loads(failed.out)["checkpoints"] == answer["checkpoints"]
    amid(1, raising(KeyboardInterrupt()))
    assert (early := lost("eval", run, "--every-checkpoint", "--device", "cpu")).code == 130
    assert early.out == ""


def test_what_has_no_checkpoints_is_refused(lost: Callable, run: Path, tmp_path: Path) -> None:
    for path in (run / "checkpoints" / "step-00000005", tmp_path / "nowhere"):
        refused = lost("eval", path, "--every-checkpoint")
        assert refused.code == 2
        assert f"--every-checkpoint: {path} holds no checkpoint that is intact; expected a run folder" in refused.err
    assert lost("eval", run, "--every-checkpoint", "--lineage").code == 2
