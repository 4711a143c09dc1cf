"""What scripts of all kinds share: the lines above a table, and a text of made-up words."""

import platform
import random
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from lost import __version__
from lost.utils.machine import processor_name


def heading(title: str, *packages: str, words: str | None = None) -> str:
    """Return what stands above a table: its title, the command that made it, and on what.

    Args:
        title: of the page.
        packages: whose versions matter beside those of `lost` and Python.
        words: what stands behind the script's name; None: what this script was given.
    """
    given = shlex.join(sys.argv[1:]) if words is None else words
    command = f"python benchmarks/{Path(sys.argv[0]).name} {given}".rstrip()
    versions = [f"lost {__version__}", *(f"{name} {version(name)}" for name in packages)]
    on = f"Python {platform.python_version()}, {processor_name()}"
    return f"# {title}\n\n`{command}`: {', '.join(versions)}, {on}"


def write_words(file: Path, number: int) -> None:
    """Write 3,000 lines of twelve words each, out of so many made-up ones: the same text every time."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=6)) for _ in range(number)]
    file.write_text("\n".join(" ".join(chance.choices(words, k=12)) for _ in range(3000)))
