"""A chat template filled in by a process of its own, which may take so much time and memory and no more.

A template is a program, often a stranger's. jinja2's sandbox keeps it from the machine, but not from endless loops,
texts that double, or a single multiplication that fills the memory.
"""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lost.utils.extras import need

SECONDS = 5  # of computing for one conversation; templates take milliseconds
_MEMORY = 1 << 30  # bytes; macOS doesn't enforce it, and there the seconds alone bound what can be filled
_OUTPUT = 1 << 24  # characters of one conversation
_PROGRAM = Path(__file__).with_name("jinja_process.py")


class TemplateError(Exception):
    """What is wrong with a template, or with the conversation that it was given."""


class TemplateProcess:
    """A process that holds one template.

    Args:
        source: the template.
        names: variables of it, such as `bos_token`.

    Raises:
        TemplateError: it isn't a valid template, or takes too much.
        MissingPackageError: jinja2 isn't installed.
    """

    def __init__(self, source: str, names: Mapping[str, Any]) -> None:
        need("jinja2", "chat", "rendering a chat template")
        limits = (str(SECONDS), str(_MEMORY), str(_OUTPUT))
        # -P: the program's folder isn't searched for modules, so that none there can pass for a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", _PROGRAM, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        weakref.finalize(self, _end, self._process)
        self._ask({"source": source, "names": dict(names)})

    def render(self, **variables: Any) -> str:
        """Return the template filled in.

        Args:
            variables: JSON values, by name.

        Raises:
            TemplateError: it refused them, or takes too much.
        """
        return self._ask(variables)

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise TemplateError(_ending(self._process.wait()))
        text, problem = json.loads(line)
        if problem:
            raise TemplateError(problem)
        return str(text)


def _ending(code: int) -> str:
    """Return why the process ended, by its exit code."""
    if code == -signal.SIGXCPU:
        return f"it takes more than {SECONDS} s"
    return f"the process that fills it in ended by itself ({code}), as when the memory is short"


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # of a request that it didn't read
            if stream:
                stream.close()
