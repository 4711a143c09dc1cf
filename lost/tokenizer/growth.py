"""Bounds on how much longer a stranger's `tokenizer.json` makes a text: its steps may replace a letter by a book."""

import base64
import math
from typing import Any

MOST = 1000.0
"""Characters that a character may become. Those that people use come to 18 at most, by Unicode's decompositions."""


def check_growth(document: dict[str, Any]) -> None:
    """Check what a `tokenizer.json` does to a text, and to an answer.

    Raises:
        ValueError: a step, or some together, make it over a thousand times as long; or one is malformed.
    """
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (times := _growth(document.get(name))) > MOST:
            raise ValueError(f"its {name} makes a text up to {times:.3g} times as long; don't trust it")


def _growth(step: Any) -> float:
    """Return how many characters a character may become in a step, or in those that it is made of."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1.0
    inner = math.prod(_growth(value) for value in step.values() if isinstance(value, list))
    if step.get("type") == "Replace":
        pattern = step.get("pattern")
        matched = len(pattern.get("String") or "") if isinstance(pattern, dict) else 0  # a regex may match one letter
        return inner * max(1.0, len(str(step.get("content") or "")) / max(1, matched))
    if step.get("type") == "Prepend":
        return inner * (1 + len(str(step.get("prepend") or "")))
    if step.get("type") == "Precompiled":
        return inner * _longest_replacement(step.get("precompiled_charsmap"))
    return inner


def _longest_replacement(encoded: Any) -> float:
    """Return how many bytes sentencepiece's table of replacements makes of one at most.

    The size of its trie in 4 bytes, little-endian, the trie, and replacements, each of which ends with a NUL.
    """
    if not isinstance(encoded, str):
        raise ValueError(f"its precompiled_charsmap is {encoded!r:.40}, not text in base64")
    table = base64.b64decode(encoded, validate=True)
    begin = 4 + int.from_bytes(table[:4], "little")
    if len(table) < max(4, begin):
        raise ValueError(f"its precompiled_charsmap has {len(table)} bytes, fewer than its trie's")
    return max(1.0, *map(len, table[begin:].split(b"\0")))
