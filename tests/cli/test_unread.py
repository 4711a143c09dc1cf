"""Answers that aren't read, or can't be written: a reader that leaves, a full disk behind standard output."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import make_run

from lost.data.dataset import Dataset
from lost.errors import OutputError
from lost.model.load import load_config
from lost.tokenizer.chat_template import PLAIN

Lost = Callable[..., Any]
NEEDS_FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full, for a full disk")
LIMIT = 50  # tokens of an answer


@pytest.fixture
def asked(prepared: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The tokens that a model was asked for, which writes on until its limit."""
    tokenizer, given = prepared.tokenizer.with_chat_template(PLAIN), []

    def generate(prompt: Any, choose: Any, limit: int) -> Iterator[int]:
        token = tokenizer.encode("rank").tolist()[-1]
        for _ in range(limit):
            given.append(token)
            yield token

    config = SimpleNamespace(model=SimpleNamespace(max_position_embeddings=9999))
    source = SimpleNamespace(
        config=config, path=tmp_path, seq_len=None, tokenizer=lambda: tokenizer, progress=None, ends=()
    )
    opened = source, SimpleNamespace(generate=generate)
    monkeypatch.setattr("lost.cli.load.load_model", lambda *arguments: opened)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"what\nand\nor\n")))
    return given


@pytest.fixture
def write_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have standard output lead to this descriptor, from within a test: pytest sets it before."""

    def call(descriptor: int) -> None:
        monkeypatch.setattr(sys, "stdout", os.fdopen(descriptor, "w"))

    return call


def unread() -> int:
    """Return a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full() -> int:
    """Return a file on a full disk."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("command", [("generate", "--samples", 9), ("chat",)])
def test_nothing_is_computed_for_a_reader_that_has_left(
    lost: Lost, asked: list[int], write_to: Callable[[int], None], tmp_path: Path, command: tuple[object, ...]
) -> None:
    """As in `lost generate RUN --samples 9 | head -3`: a model writes for minutes."""
    name, *more = command
    write_to(unread())
    done = lost(name, tmp_path, "--max-tokens", LIMIT, *more)
    assert (done.code, done.err.replace("sample 1 of 9\n", "")) == (0, "")
    assert len(asked) < LIMIT


@NEEDS_FULL
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_text_that_a_disk_refuses_ends_what_writes_it(
    lost: Lost, asked: list[int], write_to: Callable[[int], None], tmp_path: Path, command: str
) -> None:
    write_to(full())
    done = lost(command, tmp_path, "--max-tokens", LIMIT)
    assert done.code == OutputError.exit_code
    assert "standard output could not be written: No space left on device" in done.err
    assert len(asked) < LIMIT


@NEEDS_FULL
def test_a_plot_that_a_disk_refuses_is_said(lost: Lost, write_to: Callable[[int], None], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", load_config("quickstart", ["model.vocab_size=99"]), {1: 3.0, 2: 2.0})
    write_to(full())
    done = lost("plot", run, "--x", "steps")
    assert (done.code, "standard output could not be written" in done.err) == (1, True), done.err


@NEEDS_FULL
def test_tables_that_a_disk_refuses_are_said(
    lost: Lost, write_to: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"versions": {}, "threads": None, "device": "cpu", "device_name": "one", "dtype": "float32",
             "param_dtype": "float32", "layer": None, "model": None}  # fmt: skip
    monkeypatch.setattr("lost.bench.compare.measure", lambda *arguments: value)
    write_to(full())
    done = lost("bench", "--layer", "--backend", "torch", "--device", "cpu")
    assert (done.code, "standard output could not be written" in done.err) == (1, True), done.err
