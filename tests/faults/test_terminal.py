"""Nothing that comes from outside steers the terminal: names, arguments, errors of libraries, what a model writes."""

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lost.tokenizer import Tokenizer

Lost = Callable[..., Any]
RED = "\x1b[31m"
SHOWN = "\\x1b[31m"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> str:
    """What every model writes: escape sequences among joined characters, as Persian has them."""
    text = f"a{RED}\x07\u200cb\r"

    def stream(self: Tokenizer, ids: Any, after: Any = ()) -> Iterator[str]:
        yield from text

    monkeypatch.setattr(Tokenizer, "stream", stream)
    return text


def test_what_a_model_writes(lost: Lost, whole: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("generate", whole / "run", "--prompt", f"the{RED}", "--max-tokens", 1)
    assert lost(*command).out == f"the{RED}{written}\n"  # a pipe gets what was written
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert lost(*command).out == f"the{SHOWN}a{SHOWN}\\x07\u200cb\\r\n"
    assert lost(*command, "--raw").out == f"the{RED}{written}\n"


def test_what_a_model_says(lost: Lost, whole: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the\nrank\n")))
    assert lost("chat", whole / "run", "--max-tokens", 1).out == f"{written}\n" * 2


def test_arguments_that_are_refused(lost: Lost) -> None:
    for arguments in ((f"trai{RED}n",), ("plan", "quickstart", f"x{RED}")):
        answer = lost(*arguments)
        assert answer.code == 2
        assert SHOWN in answer.err
        assert "\x1b" not in answer.err


def test_errors_of_libraries(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> Iterator[object]:
        raise RuntimeError(f"device{RED}")
        yield

    monkeypatch.setattr("lost.engine.selftest.self_test", failing)
    answer = lost("doctor", "--self-test", "--backend", "torch", "--device", "cpu")
    assert answer.code == 1
    assert f"FAILED: RuntimeError: device{SHOWN}" in answer.out
    assert "\x1b" not in answer.out


def test_tracebacks(lost: Lost, tmp_path: Path) -> None:
    answer = lost("inspect", tmp_path / RED, "--debug")
    assert answer.code == 2
    assert answer.err.startswith("Traceback")
    assert "\x1b" not in answer.err


def test_names_of_folders(lost: Lost, whole: Path, text_folder: Path, tmp_path: Path) -> None:
    run, text = tmp_path / f"run{RED}", tmp_path / f"text{RED}"
    shutil.copytree(whole / "run", run)
    shutil.copytree(text_folder, text)
    (text / f"no{RED}").write_bytes(b"\xff")
    (run / "checkpoints" / "step-00000020" / "config.json").write_text("{}")
    for arguments in (
        ("verify", run),
        ("inspect", run),
        ("eval", run),
        ("train", run, "--dry-run"),
        ("train", run),
        ("plan", run / "config.yaml"),
        ("convert", run, tmp_path / f"out{RED}"),
        ("prepare", text, "--out", tmp_path / f"data{RED}", "--vocab-size", 320, "--workers", 1),
    ):
        answer = lost(*arguments)
        assert answer.code in (0, 2), answer.err
        assert "\x1b" not in answer.out + answer.err, arguments
