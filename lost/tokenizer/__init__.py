"""Tokenizers: a sentencepiece model (`tokenizer.model`), or a Hugging Face `tokenizer.json`."""

from pathlib import Path

from lost.errors import DataError
from lost.storage.nofollow import read_bytes, read_inside
from lost.tokenizer.base import Tokenizer
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer, train_tokenizer

__all__ = ["Tokenizer", "load_tokenizer", "train_tokenizer"]


def load_tokenizer(path: Path, end_of_text: str | None = None) -> Tokenizer:
    """Read a tokenizer.

    Args:
        path: a `tokenizer.model`, a `tokenizer.json`, or a folder with one of them. Of a folder with both, it is the
            `tokenizer.json`: that is the one other tools read, and the model may lack the added tokens.
        end_of_text: the token of a `tokenizer.json` that separates documents; None: the one it says itself.

    Raises:
        DataError: there is none, it is something else, or it has no end-of-text token.
        MissingPackageError: it is a `tokenizer.json`, and the library that reads them isn't installed.
    """
    names = (JsonTokenizer.FILE, PieceTokenizer.FILE)
    file = next((path / name for name in names if (path / name).is_file()), path)
    try:
        content = read_inside(file, path) if file is not path else read_bytes(file, follow=True)
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({file}: {error.strerror})"
        raise DataError(
            f"no tokenizer at {path}{reason}; expected a {' or a '.join(names)}, or a folder with one; prepare the "
            "data again with `lost prepare`, or name the tokenizer's file"
        ) from None
    if file.suffix == ".json":
        return JsonTokenizer.load(file, content, end_of_text)
    if end_of_text is not None:
        raise DataError(
            f"--end-of-text {end_of_text}: {file} is a sentencepiece model, which says itself what its end-of-text "
            "token is; expected the option with a tokenizer.json only; leave it out"
        )
    return PieceTokenizer(content, str(file))
