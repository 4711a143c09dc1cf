"""Drawing of documents, bytes and arguments that are nearly right, and running the command line on them."""

import io
import json
import math
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from lost.cli.main import main

_SECONDS = 60  # of computing, whatever else the machine does

ODD = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**53, 2**63, 10**40, -0.5, 0.5, 1e-300, 1e308, math.nan, math.inf),
    *("", "x", "lost", "float32", ".", "../x", "/", "\x1b[31m", "\0", "\ud800", "\u202e", "*", "x" * 300, "9" * 5000),
    *([], [1], [None], {}, {"": None}, {"a": {"b": [1]}}, [[[[[[]]]]]]),
]
"""Values that are seldom meant."""


class HangError(BaseException):
    """A command computed for too long."""


def check_command(*arguments: object) -> None:
    """Run a command in this process, and check that it ends in time with a documented exit code and no defect."""
    code, said = _run([str(each) for each in arguments])
    assert code in (0, 1, 2), (arguments, code, said)
    assert "defect in lost" not in said, (arguments, said)
    assert "Traceback" not in said, (arguments, said)
    assert "\x1b" not in said, (arguments, said)


def _run(arguments: list[str]) -> tuple[object, str]:
    said = io.StringIO()
    with patch.object(sys, "argv", ["lost", *arguments]), redirect_stdout(said), redirect_stderr(said), _limited():
        try:
            main()
        except SystemExit as left:
            return left.code or 0, said.getvalue()
    raise AssertionError("it didn't exit")


@contextmanager
def _limited() -> Iterator[None]:
    def hang(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def for_each(strategy: some.SearchStrategy[Any], examples: int, check: Callable[[Any], None]) -> None:
    """Call a check with examples, the same ones each time."""
    chosen = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck]
    )
    chosen(given(strategy)(lambda drawn: check(drawn)))()


@some.composite
def documents(draw: some.DrawFn, document: Any) -> Any:
    """A document of which one to three values are gone, replaced by an odd one, or beside another."""
    changed = json.loads(json.dumps(document))
    for _ in range(draw(some.integers(1, 3))):
        holder, key = draw(some.sampled_from([*_places(changed)]))
        how = draw(some.sampled_from(["replace", "replace", "remove", "add"]))
        value = deepcopy(draw(some.sampled_from(ODD)))
        if how == "remove":
            del holder[key]
        elif how == "replace":
            holder[key] = value
        elif isinstance(holder, dict):
            holder[draw(some.sampled_from([each for each in ODD if isinstance(each, str)]))] = value
        else:
            holder.append(value)
        if not changed:
            break
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what holds each value of a document, and its key there."""
    for key, inner in [*(value.items() if isinstance(value, dict) else enumerate(value))]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@some.composite
def contents(draw: some.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are replaced, gone, or new."""
    changed = bytearray(content)
    for _ in range(draw(some.integers(1, 4))):
        place = draw(some.integers(0, len(changed)))
        length = draw(some.sampled_from([0, 1, 1, 2, 8, 100]))
        changed[place : place + length] = draw(some.binary(max_size=8))
    return bytes(changed)


@some.composite
def tensor_files(draw: some.DrawFn, content: bytes) -> bytes:
    """A safetensors file with another header, as a document or as bytes, or with other values."""
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = content[8 : 8 + length], content[8 + length :]
    how = draw(some.sampled_from(["document", "document", "header", "file"]))
    if how == "file":
        return draw(contents(content))
    changed = draw(contents(header)) if how == "header" else encoded(draw(documents(json.loads(header))))
    claimed = draw(some.sampled_from([len(changed)] * 8 + [0, 2**32, 2**63]))
    return struct.pack("<Q", claimed) + changed + rest


def encoded(document: Any) -> bytes:
    """Return a document as JSON."""
    return json.dumps(document).encode()
