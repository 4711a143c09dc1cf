"""How files of Hugging Face's tokenizers spell tokens: bytes as characters of an alphabet, or by their number."""

import re
from collections.abc import Mapping
from typing import Any

from lost.tokenizer.base import Entry

BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
"""A token for a byte of characters that have none, in pieces as sentencepiece has them."""


def _alphabet() -> dict[str, int]:
    """Return byte-level BPE's characters, as GPT-2 chose them: those that print stand for themselves."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _alphabet()


class Spelling:
    """What the texts of ordinary tokens in a `tokenizer.json` stand for.

    Args:
        document: its content.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        decoder = document.get("decoder") or {}
        self.byte_level = any(each.get("type") == "ByteLevel" for each in decoder.get("decoders", [decoder]))
        self.by_byte = bool(document["model"].get("byte_fallback"))

    def entry(self, text: str) -> Entry | None:
        """Return a token whose bytes its text alone says; None: that depends on the decoder."""
        if self.by_byte and BYTE_PIECE.fullmatch(text):
            return Entry("byte", bytes.fromhex(text[3:5]))
        if self.byte_level and _ALPHABET.keys() >= set(text):
            return Entry("text", bytes(_ALPHABET[sign] for sign in text))
        return None
