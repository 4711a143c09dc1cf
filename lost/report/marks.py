"""Marks in files that this package has made, so that a later command replaces those and no others."""

from pathlib import Path

from lost.storage.nofollow import open_read

GENERATOR = "lost plot"
"""What a picture's metadata says of where it comes from."""

METADATA = {"png": "Software", "svg": "Creator", "pdf": "Creator", "eps": "Creator", "ps": "Creator"}
"""The field that says so, by the type of file; other types have none."""

_PICTURES = (f"tEXtSoftware\0{GENERATOR}", f"<dc:title>{GENERATOR}</dc:title>", f"/Creator ({GENERATOR})",
             f"%%Creator: {GENERATOR}\n")  # fmt: skip
_PAGES = ('<meta name="generator" content="lost ', '<p class="soft">lost ')  # the second of earlier versions
_DOCTYPE, _HEAD = b"<!doctype html>", 1 << 16


def is_page(path: Path) -> bool:
    """Return whether a file is a page of `lost report`."""
    content = _read(path, _HEAD)
    return content[: len(_DOCTYPE)].lower() == _DOCTYPE and any(mark.encode() in content for mark in _PAGES)


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture of `lost plot`, of a type that has a mark."""
    content = _read(path)  # a PDF has it near its end
    return any(mark.encode() in content for mark in _PICTURES)


def _read(path: Path, limit: int = 1 << 26) -> bytes:
    """Return what a file begins with; of one that can't be read, nothing."""
    try:
        with open_read(path, follow=True) as file:
            return file.read(limit)
    except OSError:
        return b""
