"""What stands beside a tokenizer's file: `tokenizer_config.json`, and a chat template in a file of its own."""

from pathlib import Path
from typing import Any

from lost.errors import DataError
from lost.storage.nofollow import DOCUMENT_BYTES, read_inside
from lost.tokenizer.base import CONFIG
from lost.utils.parsing import parse_object

TEMPLATE = "chat_template.jinja"


def read_config(file: Path) -> dict[str, Any]:
    """Return what `tokenizer_config.json` beside a tokenizer's file says; {}: there is none.

    Raises:
        DataError: it can't be read.
    """
    path = file.with_name(CONFIG)
    try:
        return parse_object(_text(path) or "{}")
    except ValueError as error:
        raise DataError(f"{path} can't be read: {error}; expected one JSON object; restore it, or remove it") from None


def read_template(file: Path) -> str | None:
    """Return the chat template beside a tokenizer's file, which goes before its configuration's; None: there is none.

    Raises:
        DataError: it can't be read.
    """
    return _text(file.with_name(TEMPLATE))


def token_text(token: Any) -> str | None:
    """Return a token's text, which is given alone or in an object with its properties; None: it is no text."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and is_unicode(text) else None


def is_unicode(text: str) -> bool:
    """Return whether a text can be written at all: JSON can name half a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _text(path: Path) -> str | None:
    try:
        return read_inside(path, path.parent, DOCUMENT_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}; expected text in UTF-8; restore it, or remove it") from None
