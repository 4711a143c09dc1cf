"""`lost eval --tasks` on the command line; its figures are tested in tests/parity/test_lm_eval.py."""

import errno
import functools
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.tasks
import pytest

from lost.data.dataset import Dataset
from lost.engine import BACKENDS
from lost.errors import BackendError
from lost.evaluation.lm_eval import Tasks
from lost.evaluation.lm_eval_model import LmEvalModel

Lost = Callable[..., Any]
OF_THE_CLIENT = type("ConnectTimeout", (Exception,), {"__module__": "httpx"})  # whose name ends with its version
TEXT = "the rank of the layer and the weight of the channel\n" * 12
ROLLING = """\
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}, {metric: word_perplexity}]
metadata: {version: 1.0}
"""
CHOICE = """\
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
fewshot_split: test
num_fewshot: 0
output_type: multiple_choice
doc_to_text: "the rank"
doc_to_choice: [" of the layer", " weight xyz"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
ANSWER = """\
task: own_answer
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "the rank of"
doc_to_target: "the layer"
generation_kwargs: {until: ["and"], max_gen_toks: 10}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, made: Path) -> Path:
    if not (made / "run").exists():
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", made / "run", "--set", "schedule.steps=20")
        assert done.code == 0, done.err
    return made / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    for name, text in (("text", ROLLING), ("choice", CHOICE), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture
def only_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out lm_eval's own 14,000 tasks, which take long to read."""
    own = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path=None, include_defaults=True: own(include_path=include_path)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_bits_as_eval_text(lost: Lost, run: Path, folder: Path, backend: str) -> None:
    (folder / "text.txt").write_text(TEXT)
    for context in (16, 50):
        text = json.loads(
            lost("eval", run, "--text", folder / "text.txt", "--json", "--backend", backend, "--context", context).out
        )
        answer = lost("eval", run, "--tasks", "own_text", "--include-path", folder, "--json",
                      "--backend", backend, "--context", context)  # fmt: skip
        assert answer.code == 0, answer.err
        value = json.loads(answer.out)
        metrics = value["results"]["own_text"]
        assert metrics["bits_per_byte"] == pytest.approx(text["bits_per_byte"], rel=1e-9)
        assert metrics["byte_perplexity"] == pytest.approx(2 ** text["bits_per_byte"], rel=1e-9)
        assert metrics["bits_per_byte_stderr"] is None
        assert text["tokens"] > 2 * context
    assert (value["versions"], value["n_shot"], value["documents"]) == (
        {"own_text": 1.0},
        {"own_text": 0},
        {"own_text": 1},
    )
    assert value["context"] == 50
    assert Path(value["checkpoint"]).name == "step-00000020"


def test_for_a_person(lost: Lost, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table; what goes on beside it on standard error, in our words alone; no network."""
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: pytest.fail("no network is needed"))
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(4)))
    answer = lost("eval", run, "--tasks", "own_choice, own_answer", "--include-path", folder, "--num-fewshot", 1)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert "up to 64 tokens at once, lm-eval 0." in lines[0]
    assert lines[1].split() == ["task", "version", "shots", "documents", "metric", "value", "stderr"]
    assert lines[2].split() == ["own_choice", "Yaml", "0", "4", "acc", "1.0000", "0.0000"]
    assert lines[3].split() == ["own_answer", "Yaml", "1", "4", "exact_match", "0.0000", "0.0000"]
    *steps, remark = answer.err.splitlines()
    assert remark.startswith("the model read up to")
    assert steps == [
        "loading own_choice, own_answer ...",
        "own_choice: always run without examples; --num-fewshot is ignored",
        "own_answer: examples are other questions of the test split; there is no split of their own (fewshot_split, "
        "training_split or validation_split)",
        "continuations ...",
        "generations ...",
    ]


def test_beyond_what_the_model_knows(lost: Lost, run: Path, folder: Path) -> None:
    answer = lost("eval", run, "--tasks", "own_text", "--include-path", folder)
    assert "read up to 64 tokens at once, and was trained on 16" in answer.err
    answer = lost("eval", run, "--tasks", "own_choice", "--include-path", folder, "--context", 8)
    assert "2 requests were longer than 8 tokens and were truncated on the left" in answer.err
    assert "but was trained" not in answer.err


def test_no_such_task(lost: Lost, run: Path, folder: Path, only_own: None) -> None:
    (folder / "broken.yaml").write_text("task: own_broken\noutput_type: [")
    answer = lost("eval", run, "--tasks", "own_txt", "--include-path", folder)
    assert answer.code == 2
    assert "--tasks own_txt: no such task" in answer.err
    assert f"; did you mean own_text? expected a name of lm-eval or of {folder}; `lm_eval ls tasks` lists" in answer.err
    assert f"not read, or without a task: {folder / 'broken.yaml'}" in answer.err
    assert lost("eval", run, "--tasks", "own_*", "--include-path", folder, "--json").out.count("_stderr") == 5


def test_no_such_task_of_lm_evals_own(lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = SimpleNamespace(match_tasks=lambda names: [], all_tasks=["hellaswag", "hellaswig"])
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda: manager)
    assert (
        "--tasks hellaswog: no such task, group or tag; did you mean hellaswig or hellaswag? expected a name of "
        "lm-eval; `lm_eval ls tasks` lists lm-eval's, --include-path FOLDER adds your own\n"
    ) in lost("eval", run, "--tasks", "hellaswog").err


@pytest.mark.parametrize("split", ["", "training_split: test"])
def test_no_example_is_the_question_itself(folder: Path, split: str) -> None:
    """Of a task that has nothing but questions, where lm_eval draws it too; each has all others for examples."""
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(4)))
    text = (folder / "answer.yaml").read_text().replace("the rank of", "this is {{text}}")
    (folder / "answer.yaml").write_text(f"{text}{split}\n")
    asked: list[str] = []

    class Silent(LmEvalModel):
        def generations(self, requests: Any) -> list[str]:
            asked.extend(context for context, _ in requests)
            return [""] * len(requests)

    tasks = Tasks(["own_answer"], folder, 3)
    assert tasks.among_questions == ["own_answer"]
    nothing: Any = SimpleNamespace(end_of_text=0)
    tasks.run(Silent(nothing, nothing, 99, 99), None)
    shown = [[line.removeprefix("this is ")[0] for line in context.split("\n\n")] for context in asked]
    assert [sorted(each) for each in shown] == [list("0123")] * 4
    assert Tasks(["own_answer", "own_choice", "own_text"], folder, 0).among_questions == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--tasks", "own_text", "--include-path", "nowhere"), "--include-path nowhere is not a folder"),
        (("--tasks", "own_text", "--include-path", "EMPTY"), "holds no task"),
        (("--tasks", " , "), "names no task"),
        (("--tasks", "own_text", "--lineage"), "--tasks can't be combined with"),
        (("--limit", 3), "only have an effect with --tasks"),
        (("--num-fewshot", 0), "only have an effect with --tasks"),
        (("--context", 65), "the model has 64 positions"),
        (("--tasks", "own_answer", "--include-path", "OWN", "--context", 10), "generates up to 10 tokens"),
        (("--tasks", "own_choice", "--include-path", "OWN", "--context", 2), "expected between 1 and 2"),
    ],
)
def test_bad_input(lost: Lost, run: Path, folder: Path, tmp_path: Path, arguments: tuple, named: str) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "OWN": folder}
    answer = lost("eval", run, *(places.get(each, each) for each in arguments))
    assert answer.code == 2
    assert named in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("rows.jsonl", "none.jsonl", "task own_answer can't be loaded: FileNotFoundError"),
        ("the rank of", "{{question}}", "can't be loaded: UndefinedError: 'question' is undefined"),
        ("the rank of", "{{1 // (text|length - 1)}}", "lm-eval failed on own_answer: ZeroDivisionError"),
    ],
)
def test_broken_tasks(lost: Lost, run: Path, folder: Path, old: str, new: str, named: str) -> None:
    text = (folder / "answer.yaml").read_text()
    assert old in text
    (folder / "answer.yaml").write_text(text.replace(old, new))
    with (folder / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"text": "a"}) + "\n")
    answer = lost("eval", run, "--tasks", "own_answer", "--include-path", folder)
    assert answer.code == 2
    assert named in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("new", "named"),
    [
        ("num_beams: 4", "task own_answer generates with num_beams = 4"),
        ("do_sample: true, temperature: -1", "task own_answer generates with temperature = -1"),
        ("do_sample: true, top_k: many", "task own_answer generates with {'until': ['and'], 'do_sample': True, "),
        ("", "task own_answer generates up to 256 tokens"),
    ],
)
def test_what_is_known_is_said_before_anything_is_asked(
    lost: Lost, run: Path, folder: Path, new: str, named: str
) -> None:
    text = (folder / "answer.yaml").read_text()
    (folder / "answer.yaml").write_text(text.replace("max_gen_toks: 10", new))
    answer = lost("eval", run, "--tasks", "own_choice,own_answer", "--include-path", folder)
    assert answer.code == 2
    assert named in answer.err
    assert "continuations" not in answer.err


def test_a_backend_that_cannot_generate(lost: Lost, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        raise BackendError("generating takes mlx-lm")

    monkeypatch.setattr("lost.backends.torch.check_generation", check)
    command = ("eval", run, "--include-path", folder, "--backend", "torch")
    refused = lost(*command, "--tasks", "own_choice,own_answer")
    assert refused.code == 2
    assert "continuations" not in refused.err
    assert lost(*command, "--tasks", "own_choice").code == 0


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        ("CUDA out of memory.", "OutOfMemoryError", "give a smaller --batch-size, or a smaller --context"),
        ("[METAL] Command buffer execution failed: impact.", "GpuStoppedError", "try a smaller --batch-size, or a"),
        ("an index is out of range", "UserError", "lm-eval failed on own_choice"),
    ],
)
def test_a_device_that_failed_is_no_fault_of_the_task(
    lost: Lost, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, error: str, kind: str, named: str
) -> None:
    def score(*arguments: object) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr("lost.evaluation.lm_eval_model.score_requests", score)
    answer = lost("eval", run, "--tasks", "own_choice", "--include-path", folder, "--json")
    told = json.loads(answer.out)["error"]
    assert (answer.code, told["kind"]) == (2, kind)
    assert named in told["message"]
    assert "resumes" not in told["message"]


def test_a_metric_that_is_no_number(lost: Lost, run: Path, folder: Path) -> None:
    (folder / "odd.py").write_text("def listed(items):\n    return [len(items)]\n")
    text = (folder / "choice.yaml").read_text()
    odd = "metric_list: [{metric: acc, aggregation: !function odd.listed}, {metric: acc_norm}]"
    (folder / "choice.yaml").write_text(text.replace("metric_list: [{metric: acc}]", odd))
    command = ("eval", run, "--tasks", "own_choice", "--include-path", folder)
    answer = lost(*command, "--json")
    assert answer.code == 0, answer.err
    results = json.loads(answer.out)["results"]["own_choice"]
    assert (results["acc"], results["acc_norm"]) == (None, 1.0)
    assert lost(*command).code == 0


@pytest.mark.parametrize(
    ("error", "behind", "kind", "code"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), None, "NetworkError", 75),
        (RuntimeError("while generating"), OF_THE_CLIENT("timed out"), "NetworkError", 75),
        (RuntimeError("while generating"), OSError(errno.ENOSPC, "No space left on device"), "StorageError", 2),
        (RuntimeError("while generating"), ValueError("not a table"), "DataError", 2),
        (FileNotFoundError(errno.ENOENT, "no such file"), None, "DataError", 2),
    ],
)
def test_data_that_does_not_come(
    lost: Lost, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, behind: Exception | None,
    kind: str, code: int,
) -> None:  # fmt: skip
    def load(*arguments: object, **named: object) -> None:
        raise error from behind

    monkeypatch.setattr("datasets.load_dataset", load)
    answer = lost("eval", run, "--tasks", "own_choice", "--include-path", folder, "--json")
    told = json.loads(answer.out)["error"]
    assert (answer.code, told["kind"]) == (code, kind)
    assert "own_choice" in told["message"]


def test_without_the_harness(lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    answer = lost("eval", run, "--tasks", "wikitext")
    assert answer.code == 2
    assert "pip install -c constraints.txt -e '.[eval]'" in answer.err
