"""Words beside numbers and names."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """Return "1 document", "1,234 documents"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sized(number: float) -> str:
    """Return bytes in GiB or MiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return "one, two and three"."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'adamw'? ", to stand before what was expected, or "" where nothing known is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def did_you_mean_path(path: Path) -> str:
    """Return the same of a path from what is beside it; of one that exists, as a folder in a file's place, ""."""
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() and not path.exists() else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.75)
    return f"did you mean {str(path.with_name(near[0]))!r}? " if near else ""
