"""Bytes that merge in a listed order, within words that a pattern cuts: llama.cpp's kind `gpt2`."""

from collections.abc import Mapping
from typing import Any

from lost.interop.to_gguf.vocabulary.form import Vocabulary, refusal
from lost.interop.to_hf.pieces import CONTROL, NORMAL, UNUSED, USER_DEFINED

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel itself cuts
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_DIGITS, _BYTES = "digits, one by one", "bytes, a character for each"
# llama.cpp's names for how text is cut into words whose bytes merge, and whether a word that is an entry is taken
# whole, merges or not.
_PATTERNS = {
    ((_WORDS, _BYTES), False): "gpt-2",
    ((_DIGITS, _WORDS, _BYTES), False): "smollm",
    ((_QWEN2, _BYTES), False): "qwen2",
    ((_LLAMA3, _BYTES), False): "dbrx",
    ((_LLAMA3, _BYTES), True): "llama-bpe",
}


def of_merges(document: Mapping[str, Any], entries: int, end_of_text: int) -> Vocabulary:
    """Return a tokenizer.json whose model is BPE as llama.cpp has it.

    Args:
        document: its content.
        entries: how many it has.
        end_of_text: the token that separates documents.

    Raises:
        DataError: it would give other ids.
    """
    model, normalizer = document["model"], document.get("normalizer")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise refusal(f"its model has {key} = {model[key]!r:.40}")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise refusal(f"it changes characters before it cuts ({normalizer.get('type')})")
    pattern = (_pattern(document.get("pre_tokenizer")), bool(model.get("ignore_merges")))
    if pattern not in _PATTERNS:
        raise refusal("none of its patterns cuts text into the same words")
    tokens = [f"[unused {number}]" for number in range(entries)]
    types = [UNUSED] * len(tokens)
    for text, number in model["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    for added in document.get("added_tokens") or ():
        if any(added.get(key) for key in ("lstrip", "rstrip", "single_word")):
            raise refusal(f"its token {added['content']!r:.60} takes spaces beside it, or whole words alone")
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    types[end_of_text] = CONTROL
    remarks = []
    if normalizer is not None:
        remarks.append("the tokenizer composes accents (NFC), llama.cpp doesn't: ids differ where a text has others")
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return Vocabulary("gpt2", _PATTERNS[pattern], tokens, types, merges=merges, remarks=remarks)


def _pattern(step: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the steps of a pre-tokenizer, mostly patterns that cut; "" among them: it does something else too."""
    if step is None:
        return ("",)
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(part for each in step["pretokenizers"] for part in _pattern(each))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return (_WORDS, _BYTES) if step.get("use_regex", True) else (_BYTES,)
    if kind == "Digits" and step.get("individual_digits"):
        return (_DIGITS,)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return (str(step["pattern"].get("Regex")),)
    return ("",)
