"""Tokenizers, one file a kind: a sentencepiece model (`tokenizer.model`), or a Hugging Face `tokenizer.json`."""

from pathlib import Path

from lost.config.registry import Registry, load_extensions
from lost.errors import DataError
from lost.storage.nofollow import read_bytes, read_inside
from lost.tokenizer.base import Tokenizer
from lost.tokenizer.comparison import same_ids
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer, train_tokenizer

_BYTES = 1 << 28  # of a tokenizer's file; the largest have some ten million

KINDS: Registry[type[Tokenizer]] = Registry("tokenizer")
"""By the file that a folder has of them. Of a folder with several it is the first: that is the one which other tools
read, and a sentencepiece model may lack the added tokens."""

KINDS.update({kind.FILE: kind for kind in (JsonTokenizer, PieceTokenizer)})

__all__ = ["KINDS", "Tokenizer", "load_tokenizer", "same_ids", "train_tokenizer"]


def load_tokenizer(path: Path, end_of_text: str | None = None) -> Tokenizer:
    """Read a tokenizer.

    Args:
        path: a `tokenizer.model`, a `tokenizer.json`, or a folder with one of them.
        end_of_text: the token of a `tokenizer.json` that separates documents; None: the one it says itself.

    Raises:
        DataError: there is none, it is something else, or it has no end-of-text token.
        MissingPackageError: it is a `tokenizer.json`, and the library that reads them isn't installed.
    """
    if path.is_dir() and _file_in(path) == path:
        load_extensions()
    file = _file_in(path)
    try:
        content = read_inside(file, path, _BYTES) if file is not path else read_bytes(file, _BYTES, follow=True)
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({file}: {error.strerror})"
        raise DataError(
            f"no tokenizer at {path}{reason}; expected a {' or a '.join(KINDS)}, or a folder with one; prepare the "
            "data again with `lost prepare`, or name the tokenizer's file"
        ) from None
    kinds = (kind for name, kind in KINDS.items() if Path(name).suffix == file.suffix)
    return next(kinds, PieceTokenizer).load(file, content, end_of_text)


def _file_in(path: Path) -> Path:
    """Return the tokenizer's file in a folder; where there is none, the path itself."""
    return next((path / name for name in KINDS if (path / name).is_file()), path)
