"""Words and figures that say what is: of errors as JSON, of what was left out, of what a figure counts."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost.cli.render.output import folded
from lost.data.dataset import Dataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(lost: Callable, runs: Path, prepared: Dataset, tiny_yaml: Path) -> Path:
    """Made once; its answer, and what was shown, lie beside it."""
    if not (runs / "run").exists():
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", runs / "run", "--set", "schedule.steps=4",
                    "--set", "train.log_every=0", "--backend", "torch", "--device", "cpu", "--json")  # fmt: skip
        assert done.code == 0, done.err
        (runs / "answer.json").write_text(done.out)
        (runs / "shown").write_text(done.err)
    return runs / "run"


def test_training_and_evaluation_answer_with_loss_and_checkpoint(lost: Callable, run: Path) -> None:
    answer = json.loads((run.parent / "answer.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert answer["loss"] == [row["loss"] for row in rows if "loss" in row][-1]
    assert answer["checkpoint"] == str(run / "checkpoints" / "step-00000004")
    measured = json.loads(lost("eval", run, "--json").out)
    assert measured["checkpoint"] == answer["checkpoint"]
    assert np.exp(measured["loss"]) == pytest.approx(measured["perplexity"])


def test_an_evaluation_says_what_was_measured(lost: Callable, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Beside figures that are of one text, one context and, to their last digits, one number of windows at once."""
    (tmp_path / "text.txt").write_text("the rank of the layer of the model")
    part = json.loads(lost("eval", run, "--json", "--batch-size", 3).out)
    assert {key: part[key] for key in ("text", "unit", "context", "batch_size")} == {
        "text": str(prepared.path), "unit": "tokens", "context": 16, "batch_size": 3
    }  # fmt: skip
    assert part["of"] == prepared.split("valid").predictions
    own = json.loads(lost("eval", run, "--text", tmp_path / "text.txt", "--context", 8, "--json").out)
    assert (own["text"], own["of"], own["context"]) == (str(tmp_path / "text.txt"), own["tokens"], 8)


def test_a_plan_that_does_not_fit_is_told_all_the_same(lost: Callable) -> None:
    """The figures of what is too large are what one wants to know, with --json too."""
    sets = ("plan", "llama_60m", "--set", "train.micro_batch_size=64", "--memory-gib")
    refused, fitting = lost(*sets, 1, "--json"), lost(*sets, 80, "--json")
    value, roomy = json.loads(refused.out), json.loads(fitting.out)
    error = value.pop("error")
    assert (refused.code, error["exit_code"], error["kind"]) == (2, 2, "ConfigError")
    assert refused.err == lost(*sets, 1).err == f"lost: {error['message']}\n"
    assert (value.pop("fits"), roomy.pop("fits")) == (False, True)
    assert (value.pop("device_bytes"), roomy.pop("device_bytes")) == (1 << 30, 80 << 30)
    assert value == roomy


def test_memory_says_of_what_it_is(lost: Callable, run: Path, prepared: Dataset, tiny_yaml: Path) -> None:
    """The estimate counts arrays; the system counts the process, libraries included."""
    assert "B, the whole process)" in (run.parent / "shown").read_text()
    planned = lost("train", tiny_yaml, "--data", prepared.path, "--out", run.parent / "other", "--dry-run")
    assert "needed for arrays," in planned.out


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("eval", "nowhere"), "CheckpointError"),
        (("eval",), "UserError"),
        (("generate", "nowhere", "--nonsense"), "UserError"),
        (("train", "quickstart", "--set", "optimizer.lr=-1"), "ConfigError"),
        (("prepare", "nowhere.txt", "--out", "x"), "DataError"),
    ],
)
def test_an_error_is_json_too(lost: Callable, arguments: tuple[str, ...], kind: str) -> None:
    """On standard output, where the answer would be; the words are on standard error as ever, and so is the code."""
    done, told = lost(*arguments), lost(*arguments, "--json")
    error = json.loads(told.out)["error"]
    assert (told.code, told.err) == (done.code, done.err)
    assert (error["kind"], error["exit_code"]) == (kind, done.code)
    assert " ".join(error["message"].split())[:40] in " ".join(done.err.split())
    assert not done.out


def test_a_defect_is_json_too(lost: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.interop.source.open_source", lambda path: 1 / 0)
    told = lost("inspect", "x", "--json")
    assert (told.code, json.loads(told.out)["error"]["kind"]) == (1, "ZeroDivisionError")


def test_a_damaged_run_is_not_called_consistent(lost: Callable, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert "files are consistent" in lost("verify", copy).out
    weights = next(copy.rglob("model-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    done = lost("verify", copy)
    assert done.code == 2
    assert "files are consistent" not in done.out


def test_a_folder_says_what_was_left_out(lost: Callable, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("the rank of the layer")
    (folder / "picture.txt").write_bytes(b"\x00\x01")
    done = lost("eval", run, "--text", folder)
    assert done.code == 0, done.err
    assert "skipped, because they are not text: picture.txt" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "https://x.org/owner/name"),
        ("eval", "x", "--text", "hf://owner/name"),
        ("eval", "x", "--data", "hf://owner/name"),
        ("train", "quickstart", "--init-from", "s3://owner/name"),
        ("convert", "https://x.org/owner/name", "out", "--from", "hf"),
        ("prepare", "x", "--tokenizer", "https://x.org/tokenizer.json"),
    ],
)
def test_an_address_is_no_path(lost: Callable, arguments: tuple[str, ...]) -> None:
    """It is shown as it was written, and nothing is looked up."""
    done = lost(*arguments)
    address = next(each for each in arguments if "://" in each)
    assert (done.code, f"{address} is an address, not a path" in done.err) == (2, True)


def test_text_that_is_missing_is_no_data_set_of_the_hub(lost: Callable, run: Path) -> None:
    done = lost("eval", run, "--text", "owner/name")
    assert (done.code, "owner/name doesn't exist; expected a file or a folder" in done.err) == (2, True)


@pytest.mark.parametrize("size", [100, 90_000])
def test_a_vocabulary_size_that_fits_is_named(lost: Callable, text_folder: Path, tmp_path: Path, size: int) -> None:
    """The number named is right: it is taken, and the next one isn't."""
    (tmp_path / "letters.txt").write_text("".join(f"{chr(each)} {chr(each)}\n" for each in range(0x391, 0x3C9)) * 30)
    command = ("prepare", text_folder, tmp_path / "letters.txt", "--out", tmp_path / "out", "--vocab-size")
    done = lost(*command, size)
    assert done.code == 2
    assert "--character_coverage" not in done.err
    words = done.err.split("expected at ")[1].split()
    named, beyond = int(words[1].rstrip(",")), {"least": -1, "most": 1}[words[0]]
    assert lost(*command, named + beyond).code == 2
    assert lost(*command, named).code == 0


@pytest.mark.parametrize("ends", [True, False])
def test_a_length_is_remarked_on_where_it_was_reached(
    lost: Callable, run: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """An answer that ended early was not too long, whatever was allowed."""
    from lost.backends.torch.engine import TorchEngine

    def generated(engine: TorchEngine, prompt: object, choose: object, limit: int) -> list[int]:
        return [300, 301, 1] if ends else [300] * limit

    monkeypatch.setattr(TorchEngine, "generate", generated)
    done = lost("generate", run, "--prompt", "the rank", "--backend", "torch", "--device", "cpu")
    assert done.code == 0, done.err
    assert ("longer than the 16 tokens" in done.err) is not ends
    assert ("has no more positions" in done.err) is not ends


def test_in_a_terminal_sentences_break_between_words(lost: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe or a file they go in one line."""
    whole = lost("config", "--explain", "lr").err
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    folded = lost("config", "--explain", "lr").err
    assert whole.count("\n") == 1
    assert folded.split() == whole.split()
    assert max(map(len, folded.splitlines())) <= 40


def test_a_command_to_copy_stays_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = folded("a disk is full; make room, then `lost train runs/a` resumes\nthe run", sys.stderr)
    assert shown.splitlines() == ["a disk is full; make", "room, then", "`lost train runs/a`", "resumes", "the run"]


def test_answers_fit_a_narrow_terminal(lost: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = lost("config", "--explain", "projection").out.splitlines()
    assert max(map(len, lines)) <= 60
    meaning = [line for line in lines if line.startswith("    ")]
    assert sum(len(line) > 50 for line in meaning) > len(meaning) / 2  # not wrapped twice


@pytest.mark.parametrize("longest", [1, 1000])
def test_a_share_held_out_that_is_not_the_one_asked_for_is_said(lost: Callable, tmp_path: Path, longest: int) -> None:
    """Whole documents are held out: one of forty is little of the text, or nearly all, where one is much longer."""
    documents = [f"rank layer weight {number:02d}. " * (longest if number == 7 else 1) for number in range(40)]
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    done = lost("prepare", text, "--out", tmp_path / "set", "--vocab-size", 300, "--valid-fraction", 0.025)
    assert done.code == 0, done.err
    assert ("of the text is held out for validation, not 2.50%" in done.err) == (longest > 1)
