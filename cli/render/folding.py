"""Sentences broken between words at a terminal's width."""

import re
import shutil
from textwrap import wrap
from typing import IO

from lost.utils.printable import printable


def folded(text: str, stream: IO[str]) -> str:
    """Return text made printable, for a terminal in lines that fit it; a command in backticks stays in one line."""
    if not stream.isatty():
        return printable(text)
    whole = re.sub(r"`[^`\n]*`", lambda quoted: quoted[0].replace(" ", "\0"), printable(text))
    columns = shutil.get_terminal_size().columns
    lines = (line if len(line) <= columns else _wrapped(line, columns) for line in whole.split("\n"))
    return "\n".join(lines).replace("\0", " ")


def _wrapped(line: str, columns: int) -> str:
    indent = line[: len(line) - len(line.lstrip(" "))]
    return "\n".join(wrap(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))
