"""What a newcomer mistypes or mixes up: the message says what was meant."""

import re
from pathlib import Path
from typing import Any

import pytest

from lost.data.dataset import Dataset


@pytest.fixture
def place(prepared: Dataset, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a configuration, prepared data, text, examples, and a run without checkpoints."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(tiny_yaml.read_text())
    Path("rest.yaml").write_text("schedule: {steps: 20}\n")
    Path("data").mkdir()
    Path("data/mine").symlink_to(prepared.path)
    Path("runs/tiny/checkpoints").mkdir(parents=True)
    Path("runs/tiny/config.yaml").write_text(tiny_yaml.read_text())
    Path("runs/begun").mkdir()
    Path("runs/begun/log.txt").touch()
    Path("book.txt").write_text("Once upon a time.\n")
    Path("chat.jsonl").write_text('{"messages": []}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train tiny.yml --data data/mine", "no configuration 'tiny.yml': it is no file, no shipped name and no run's "
         "folder; did you mean 'tiny.yaml'?"),
        ("train tiny.yaml --data data/minne", "data/minne doesn't exist; did you mean 'data/mine'?"),
        ("train tiny.yaml --data book.txt", "book.txt is a file, no prepared data; expected"),
        ("train data/mine", "data/mine is a prepared set, not a configuration; expected a YAML file or a shipped name "
         "such as quickstart; name one, and the set with --data data/mine"),
        ("train --init-from runs/tiny --data data/mine", "without a configuration: the new run has no name; expected a "
         "folder for it; name one with --out"),
        ("eval runs/tinny", "runs/tinny doesn't exist; did you mean 'runs/tiny'?"),
        ("eval runs/begun", "runs/begun is a run without a checkpoint yet; expected"),
        ("inspect runs", "name one, such as runs/tiny"),
        ("prepare chat.jsonl", "name the field with --text-key, or, for examples to fine-tune on, add --examples"),
        ("prepare data --include *.md", "there is no text in data under names that --include and --exclude leave"),
        ("config optimizer.lr", "ask `lost config --explain optimizer.lr`"),
        ("plan runs/tiny", "runs/tiny is a folder; expected a configuration's file or a shipped name; the run's own is "
         "runs/tiny/config.yaml"),
        ("train runs", "runs is a folder; expected a configuration's file or a shipped name; a run begins with weights "
         "by --init-from"),
        ("plan rest.yaml", "rest.yaml: model: missing; add it (`lost train --init-from WEIGHTS` does without)"),
        ("plan tiny.yaml --set projection.rank=500", "lost: --set: projection.rank = 500 is larger than"),
    ],
)  # fmt: skip
def test_a_message_says_what_was_meant(lost: Any, place: Path, command: str, words: str) -> None:
    answer = lost(*command.split())
    assert answer.code == 2
    assert words in answer.err


def test_help_is_asked_for_in_short_too(lost: Any) -> None:
    for command in ((), ("prepare",), ("train",)):
        assert lost(*command, "-h").out == lost(*command, "--help").out != ""


def test_help_is_in_words_of_its_reader(lost: Any) -> None:
    """No first line is cut short, and lists are named by what is in them."""
    assert "..." not in lost("--help").out.partition("Commands:")[2]
    options = lost("prepare", "--help").out.partition("Options:")[2]
    assert "list[" not in options
    for command in ("prepare", "plan", "fit", "report"):
        assert re.search(r"\.\.\.[\]}]\.\.\.", lost(command, "--help").out) is None


def test_what_an_evaluation_needs_is_asked_for_before_weights_are_read(
    lost: Any, prepared: Dataset, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large model that takes minutes."""
    lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=2")
    monkeypatch.setattr("lost.engine.create_engine", lambda *_: pytest.fail("the weights were read"))
    for wrong in (("--data", tmp_path / "nowhere"), ("--text", tmp_path / "nowhere"), ("--tasks", ",")):
        answer = lost("eval", tmp_path / "run", *wrong)
        assert answer.code == 2
