"""`lost chat`: lines through pipes, and a person at a terminal."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lost.data.dataset import Dataset
from lost.tokenizer.chat_template import PLAIN

Lost = Callable[..., Any]
Chat = Callable[..., Any]
ESCAPES = ["the\x1b", "[31m", "\r", "\u202e", "\x9b", "2J"]


@pytest.fixture
def chat(lost: Lost, prepared: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Chat:
    """Talk with a model that answers "rank 1", "rank 2" and so on, or with these pieces."""

    def call(*typed: str, at_terminal: bool = False, answers_elsewhere: bool = False, template: bool = True,
             pieces: Any = None, positions: int = 999, seq_len: int | None = None,
             more: tuple[object, ...] = ()) -> Any:  # fmt: skip
        tokenizer = prepared.tokenizer
        if template:
            tokenizer = tokenizer.with_chat_template(PLAIN)
        if pieces:
            tokenizer = _replaced(tokenizer, pieces)
        asked = iter(range(1, 99))

        def generate(prompt: Any, choose: Any, limit: int) -> Iterator[int]:
            yield from [*tokenizer.encode(f"rank {next(asked)}").tolist(), tokenizer.end_of_text][:limit]

        model = SimpleNamespace(max_position_embeddings=positions)
        source = SimpleNamespace(
            config=SimpleNamespace(model=model), path=tmp_path, seq_len=seq_len, tokenizer=lambda: tokenizer,
            progress=None, ends=(),
        )  # fmt: skip
        opened = source, SimpleNamespace(generate=generate)
        monkeypatch.setattr("lost.cli.load.load_model", lambda *arguments: opened)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{each}\n" for each in typed).encode())))
        if at_terminal:
            monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
            monkeypatch.setattr(sys.stdout, "isatty", lambda: not answers_elsewhere)
        return lost("chat", tmp_path, *more)

    return call


def _replaced(tokenizer: Any, pieces: list[str]) -> Any:
    tokenizer.stream = lambda ids, after=(): iter(pieces)
    return tokenizer


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What a person types, and the exceptions of Python's `input` for keys with Ctrl; then Ctrl-D."""

    def call(*typed: str | type[BaseException]) -> None:
        entries = iter([*typed, EOFError])

        def read(prompt: str = "") -> str:
            entry = next(entries)
            if not isinstance(entry, str):
                raise entry
            return entry

        monkeypatch.setattr("builtins.input", read)

    return call


def test_each_line_of_a_pipe_is_a_turn(chat: Chat, tmp_path: Path) -> None:
    """A message of several lines stands in quotes, and is no command there."""
    saved = tmp_path / "chat.jsonl"
    answer = chat("what", "", '"""/reset', "", 'of it"""', f"/save {saved}", "/reset", "new", "/exit", "not read")
    assert answer.code == 0, answer.err
    assert answer.out == "rank 1\nrank 2\nrank 3\n"
    said = [message["content"] for message in json.loads(saved.read_text())["messages"]]
    assert said == ["what", "rank 1", "/reset\n\nof it", "rank 2"]
    assert f"saved to {saved}" in answer.err
    assert "begun anew" in answer.err


@pytest.mark.parametrize(
    ("line", "words"),
    [("/save", "expected a file's name"), ("/save a", "nothing was said yet"), ("/sav x", "did you mean '/save'?"),
     ('"""a\nb', "ends in a message of several lines")],
)  # fmt: skip
def test_a_pipe_ends_where_something_cannot_be_done(chat: Chat, line: str, words: str) -> None:
    """Later answers would stand beside other questions."""
    answer = chat(line, "what")
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


def test_commands_that_cannot_be_done(chat: Chat, keys: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    commands = ("/save", f"/save {tmp_path}/a", "/home/me is a path", f"/save {tmp_path}/there",
                f"/save {tmp_path}/none/a", "/save \0", "/sav x", "/help")  # fmt: skip
    keys(*commands)
    answer = chat(at_terminal=True)
    assert answer.code == 0, answer.err
    assert answer.out == "rank 1\n\n"  # to the path
    for words in ("expected a file's name", "nothing was said yet", "there is there already; expected a new name",
                  "none/a can't be written: its folder isn't there", "null byte",
                  "/sav is no command; did you mean '/save'?",
                  "/reset      begin anew"):  # fmt: skip
        assert words in answer.err, words
    assert (tmp_path / "there").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_model_without_a_template(chat: Chat) -> None:
    assert "it has no chat template: it continues the text" in chat("what", template=False).err
    assert "template" not in chat("what").err


def test_a_message_that_is_too_long(chat: Chat, keys: Callable[..., None]) -> None:
    """Nobody mends it in a pipe; a person can."""
    long = "what " * 60
    answer = chat("what", long, "what", positions=60)
    assert (answer.code, answer.out) == (2, "rank 1\n")
    assert "expected fewer than model.max_position_embeddings = 60" in answer.err
    keys(long, "what")
    answer = chat(at_terminal=True, positions=60)
    assert (answer.code, answer.out) == (0, "rank 1\n\n")
    assert "expected fewer than model.max_position_embeddings = 60" in answer.err


def test_turns_that_are_left_out(chat: Chat) -> None:
    answer = chat(*["what"] * 5, positions=60)
    assert answer.code == 0
    assert answer.err.count("left out the oldest 1 turn: the model has no more positions") >= 2


def test_keys_of_a_terminal(chat: Chat, keys: Callable[..., None]) -> None:
    """Ctrl-C at the prompt takes the line back, in a message of several lines all of it; Ctrl-D leaves."""
    keys("what", KeyboardInterrupt, '"""a', KeyboardInterrupt, "and")
    answer = chat(at_terminal=True)
    assert (answer.code, answer.out) == (0, "rank 1\nrank 2\n\n")
    assert answer.err.count("Ctrl-D or /exit leaves") == 2
    assert "/help lists commands, Ctrl-D leaves" in answer.err


def test_ctrl_c_ends_an_answer(chat: Chat, keys: Callable[..., None], tmp_path: Path) -> None:
    """What was written of it stays."""

    def pieces() -> Iterator[str]:
        yield "some"
        os.kill(os.getpid(), signal.SIGINT)
        yield " of"
        raise AssertionError("it goes on")

    class Pieces(list):
        def __iter__(self) -> Iterator[str]:
            return pieces()

    before = signal.getsignal(signal.SIGINT)
    keys("what", f"/save {tmp_path / 'chat.jsonl'}")
    answer = chat(at_terminal=True, pieces=Pieces(["x"]))
    assert answer.code == 0, answer.err
    assert answer.out == "some of\n\n"
    assert json.loads((tmp_path / "chat.jsonl").read_text())["messages"][-1]["content"] == "some of"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("at_terminal", [True, False])
def test_ctrl_c_where_no_text_comes(chat: Chat, keys: Callable[..., None], at_terminal: bool) -> None:
    """Twice ends an answer whose bytes make no character yet; once, all of what reads a pipe."""

    class Pieces(list):
        def __iter__(self) -> Iterator[str]:
            yield "some"
            for _ in range(1 + at_terminal):
                os.kill(os.getpid(), signal.SIGINT)
            yield "it goes on"

    keys("what")
    answer = chat("what", "and", at_terminal=at_terminal, pieces=Pieces(["x"]))
    assert (answer.code, answer.out) == ((0, "some\n\n") if at_terminal else (130, "some"))


def test_an_answer_steers_no_terminal(chat: Chat, keys: Callable[..., None]) -> None:
    """Nor do the halves of a sequence that come one after the other; a pipe gets what was written."""
    assert chat("what", pieces=ESCAPES).out == "".join(ESCAPES) + "\n"
    keys("what")
    assert chat(at_terminal=True, pieces=ESCAPES).out == "the\\x1b[31m\\r\\u202e\\x9b2J\n\n"
    keys("what")
    assert chat(at_terminal=True, pieces=ESCAPES, more=("--raw",)).out == "".join(ESCAPES) + "\n\n"


def test_answers_may_go_to_a_file(chat: Chat, keys: Callable[..., None]) -> None:
    """As in `lost chat RUN | tee log`: a person types, sees prompts, and mends mistakes; the file has the answers."""
    keys("/sav x", "what", KeyboardInterrupt, "and")
    answer = chat(at_terminal=True, answers_elsewhere=True)
    assert (answer.code, answer.out) == (0, "rank 1\nrank 2\n")
    assert answer.err.count(">>> ") == 5
    for words in ("/help lists commands", "/sav is no command", "Ctrl-D or /exit leaves"):
        assert words in answer.err


def test_longer_than_in_training_is_said_once(chat: Chat) -> None:
    answer = chat("what", "and", "or", seq_len=30)
    assert answer.err.count("longer than the 30 tokens that the model was trained on") == 1
    assert "longer than" not in chat("what", seq_len=300).err


def test_how_an_answer_ended(chat: Chat) -> None:
    assert "stopped after 1 token:" in chat("what", more=("--max-tokens", 1)).err
    assert "stopped after" not in chat("what").err


def test_closed_standard_input(chat: Chat, lost: Lost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chat("what")
    monkeypatch.setattr(sys, "stdin", None)
    answer = lost("chat", tmp_path)
    assert answer.code == 2
    assert "standard input is closed" in answer.err
