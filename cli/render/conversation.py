"""A conversation in a terminal, or line by line through pipes: what is typed, and what is shown of the answers."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from lost.cli.render.output import note, write_text
from lost.cli.render.streams import check_written, has_reader, opened_input
from lost.errors import StorageError, UserError
from lost.generation.conversation import Conversation
from lost.storage.files import replace_text
from lost.utils.wording import counted, did_you_mean

_MANY_LINES = '"""'  # before and after a message of several
_COMMANDS = {
    "/help": "this list",
    "/reset": "begin anew",
    "/save FILE": "write the conversation to a file, for `lost prepare --examples`",
    "/exit": "leave, as Ctrl-D does",
}
_NAMES = [name.partition(" ")[0] for name in _COMMANDS]
_COMMAND = re.compile(r"/[a-z]+(?: |$)")  # a path isn't one
_HELP = "\n".join(
    [
        *(f"{name:12}{meaning}" for name, meaning in _COMMANDS.items()),
        f"{_MANY_LINES:12}begins and ends a message of several lines",
        f"{'Ctrl-C':12}ends an answer; what was written of it stays",
    ]
)


def converse(conversation: Conversation, model: str, seq_len: int | None, raw: bool) -> None:
    """Answer messages until there are no more.

    Args:
        conversation: with the model.
        model: what it is called.
        seq_len: tokens in a window of its training; None: unknown.
        raw: whether a terminal is given control characters as they are.

    Raises:
        UserError: where nobody can mend it, because messages don't come from a terminal.
    """
    typed = opened_input("a terminal, or a message a line")
    typed.reconfigure(errors="replace")  # type: ignore[attr-defined]
    interactive = typed.isatty()  # whatever takes the answers: `lost chat RUN | tee log` is a conversation too
    if interactive:
        note(f"{model}; /help lists commands, Ctrl-D leaves")
    if not conversation.has_template:
        note("it has no chat template: it continues the text that you both write, with all that stands before")
    warned = False
    for message, quoted in _messages(interactive):
        if not quoted and _COMMAND.match(message):
            try:
                if not _obeyed(conversation, message):
                    break
            except UserError as error:
                _refused(error, interactive)
            continue
        dropped = conversation.dropped
        try:
            pieces = conversation.ask(message)
        except UserError as error:
            _refused(error, interactive)
            continue
        if new := conversation.dropped - dropped:
            note(f"left out the oldest {counted(new, 'turn')}: the model has no more positions; /reset begins anew")
        _show(conversation, pieces, raw, interactive)
        if not has_reader():
            break
        if seq_len and conversation.tokens > seq_len and not warned:
            warned = True
            note(f"longer than the {seq_len} tokens that the model was trained on: answers may be worse")
    check_written()


def _refused(error: UserError, interactive: bool) -> None:
    """Say what couldn't be done; raise it where nobody can mend it, as the answers after it would go astray."""
    if not interactive:
        raise error
    note(f"lost: {error}")


def _messages(interactive: bool) -> Iterator[tuple[str, bool]]:
    """Yield what is typed, and whether in quotes, but for empty lines; Ctrl-C begins the line anew."""
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401 - edits lines, and remembers them
    while True:
        try:
            message = _message(interactive)
        except EOFError:
            if interactive:
                print(file=_prompts())
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            note("\nCtrl-D or /exit leaves")
            continue
        if message[0].strip():
            yield message


def _message(interactive: bool) -> tuple[str, bool]:
    line = _line(interactive, ">>> ")
    if not line.startswith(_MANY_LINES):
        return line, False
    lines = [line.removeprefix(_MANY_LINES)]
    while not lines[-1].rstrip().endswith(_MANY_LINES):
        try:
            lines.append(_line(interactive, "... "))
        except EOFError:
            if interactive:
                raise
            raise UserError(
                f"standard input ends in a message of several lines; expected {_MANY_LINES} after it"
            ) from None
    return "\n".join(lines).rstrip().removesuffix(_MANY_LINES).strip("\n"), True


def _line(interactive: bool, prompt: str) -> str:
    if interactive:
        if (shown := _prompts()) is sys.stdout:
            return input(prompt)  # with the keys of readline, which knows where the prompt ends
        print(prompt, end="", file=shown, flush=True)
        return input()
    if line := sys.stdin.readline():
        return line.removesuffix("\n")
    raise EOFError


def _prompts() -> TextIO:
    """Return where a person is shown what isn't part of the conversation."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr


def _obeyed(conversation: Conversation, line: str) -> bool:
    """Do what a command says; return whether the conversation goes on.

    Raises:
        UserError: it can't be done.
    """
    name, _, rest = line.partition(" ")
    if name == "/exit":
        return False
    if name == "/reset":
        conversation.reset()
        note("begun anew")
    elif name == "/save":
        note(f"saved to {_saved(conversation, rest.strip())}")
    elif name == "/help":
        note(_HELP)
    else:
        hint = did_you_mean(name, _NAMES)
        raise UserError(
            f"{name} is no command; {hint}expected {', '.join(_NAMES)}; a message may stand between {_MANY_LINES}"
        )
    return True


def _saved(conversation: Conversation, name: str) -> Path:
    """Write the conversation to a new file, and return which.

    Raises:
        UserError: there is nothing to write, or no such file can be made.
    """
    path = Path(os.path.expanduser(name))
    if not name:
        raise UserError("/save: expected a file's name after it, such as /save chat.jsonl")
    if not conversation.messages:
        raise UserError("/save: nothing was said yet; expected a message before it")
    try:
        if os.path.lexists(path):
            raise UserError(f"{path} is there already; expected a new name: nothing is overwritten")
        if not path.absolute().parent.is_dir():
            raise UserError(f"{path} can't be written: its folder isn't there; expected one that is; name another file")
        replace_text(path, conversation.record() + "\n")
    except (StorageError, OSError, ValueError) as error:
        raise UserError(f"{path} can't be written: {error}") from error
    return path


def _show(conversation: Conversation, pieces: Iterator[str], raw: bool, interactive: bool) -> None:
    """Write an answer as it comes; at a terminal Ctrl-C ends it."""
    with _interruptible() if interactive else nullcontext(lambda: False) as interrupted, suppress(_Interrupted):
        for piece in pieces:
            write_text(piece, raw)
            if interrupted() or not has_reader():
                break
    write_text("\n", raw)
    answer = conversation.answer
    if conversation.has_template and answer and answer.ended == "length" and not interrupted():
        note(f"stopped after {counted(len(answer.tokens), 'token')}: --max-tokens, or the model has no more positions")


class _Interrupted(BaseException):
    """Ctrl-C was pressed again, because no piece of text comes."""


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C was pressed meanwhile; the first time that does nothing else, a library may be at work.

    Raises:
        _Interrupted: the second time.
    """
    pressed = False

    def handle(*signal_and_frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise _Interrupted
        pressed = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
