"""The registry of formats, and which of them a file has by its name."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lost.config.registry import Registry, load_extensions
from lost.storage.unpack import PACKED
from lost.utils.wording import listed

if TYPE_CHECKING:
    from lost.prepare.reading.base import Reader

KINDS: "Registry[Reader]" = Registry("format")
"""What reads each format, by the format's name."""

TEXT = "text"
"""The format of a file whose suffix is that of no other."""


def format_of(path: Path) -> str:
    """Return the name of a file's format."""
    name = path.name
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    suffix = Path(name).suffix
    if (known := _known(suffix)) is None:
        _load_extensions()
        known = _known(suffix)
    return known or TEXT


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of all formats, those of extensions among them, and of what is packed."""
    _load_extensions()
    return (*(suffix for reader in KINDS.values() for suffix in reader.suffixes), *PACKED)


def formats_in_words() -> str:
    """Return "text, .jsonl or .parquet", to stand in a sentence: plain text, and a suffix of each other format."""
    others = [suffix for name, reader in KINDS.items() if name != TEXT for suffix in reader.suffixes[:1]]
    return listed([TEXT, *others], "or")


def _known(suffix: str) -> str | None:
    return next((name for name, reader in KINDS.items() if suffix in reader.suffixes), None)


@cache
def _load_extensions() -> None:
    """Load extensions, once: a folder may have a million files of suffixes that nobody knows."""
    load_extensions()
