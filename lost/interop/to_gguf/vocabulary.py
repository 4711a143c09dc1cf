"""A tokenizer as llama.cpp has it, or a refusal: it turns text into ids by code of its own, which some don't fit.

Two of its kinds are used. `llama` joins the two pieces whose whole has the highest score, as sentencepiece's BPE does,
but takes every entry of the vocabulary for a piece and changes no character before. `gpt2` is byte-level BPE by a list
of merges, over words that one of its built-in patterns cuts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lost.errors import DataError
from lost.interop.to_hf.pieces import BPE, BYTE, CONTROL, UNKNOWN, USER_DEFINED, PieceModel, read_pieces
from lost.tokenizer import Tokenizer
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer
from lost.utils.parsing import parse_object

_NORMAL, _UNUSED = 1, 5
_APART = "\ue000"  # a private character, which no piece holds
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel itself cuts
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_DIGITS = "digits, one by one"
# llama.cpp's names for how text is cut into words, and whether a word that is an entry is taken whole, merges or not.
_PATTERNS = {
    ((_WORDS,), False): "gpt-2",
    ((_DIGITS, _WORDS), False): "smollm",
    ((_QWEN2,), False): "qwen2",
    ((_LLAMA3,), False): "dbrx",
    ((_LLAMA3,), True): "llama-bpe",
}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: `llama` or `gpt2`.
        pre: llama.cpp's name of the pattern that cuts text into words.
        tokens: their texts, by id.
        types: their kinds, by id, numbered as sentencepiece does.
        scores: of `llama`, by id.
        merges: of `gpt2`, the first first.
        unknown: the entry for unknown characters; None: there is none.
        space_prefix: whether a text gets a leading space.
        remarks: on texts whose ids differ.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    unknown: int | None = None
    space_prefix: bool = False
    remarks: list[str] = field(default_factory=list)


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer as llama.cpp has it.

    Raises:
        DataError: it would give other ids.
    """
    if isinstance(tokenizer, PieceTokenizer):
        return _of_pieces(read_pieces(tokenizer.files[PieceTokenizer.FILE]))
    if isinstance(tokenizer, JsonTokenizer):
        return _of_merges(parse_object(tokenizer.files[JsonTokenizer.FILE]), tokenizer)
    raise _refusal(f"it is of another kind, {tokenizer.FILE}")


def _refusal(why: str) -> DataError:
    return DataError(
        f"--to gguf: llama.cpp can't cut text as the run's tokenizer does: {why}; expected a sentencepiece model as "
        "`lost prepare` trains it, or a byte-level BPE tokenizer.json; use --to dense, whose folder transformers and "
        "mlx-lm open"
    )


def _of_pieces(model: PieceModel) -> Vocabulary:
    problems = {
        "it is no BPE model (of equally likely cuts it chooses another)": model.kind != BPE,
        "it has no bytes for unknown characters": not model.byte_fallback,
        "it changes characters before it cuts": bool(model.characters),
        "it makes one space of several": model.collapse_spaces,
        "it has unused pieces": any(piece.kind == _UNUSED for piece in model.pieces),
        "it puts a space before a text, but not behind its own symbols": model.dummy_prefix
        and any(piece.kind == USER_DEFINED for piece in model.pieces),
    }
    if found := next((problem for problem, given in problems.items() if given), None):
        raise _refusal(found)
    texts = {piece.text for piece in model.pieces}
    tokens = []
    for piece in model.pieces:
        reached = piece.kind in (UNKNOWN, CONTROL, BYTE) and _merges_make(piece.text, texts)
        if reached and piece.kind == BYTE:
            raise _refusal(f"the text {piece.text!r} written out would become that byte")
        tokens.append(f"{_APART}{piece.text}{_APART}" if reached else piece.text)
    return Vocabulary(
        "llama",
        "default",
        tokens,
        [piece.kind for piece in model.pieces],
        scores=[piece.score for piece in model.pieces],
        unknown=model.unknown,
        space_prefix=model.dummy_prefix,
    )


def _merges_make(text: str, texts: set[str]) -> bool:
    """Return whether a merge of two entries of the vocabulary makes this text."""
    return any(text[:cut] in texts and text[cut:] in texts for cut in range(1, len(text)))


def _of_merges(document: Mapping[str, Any], tokenizer: Tokenizer) -> Vocabulary:
    model, normalizer = document["model"], document.get("normalizer")
    if model.get("type") != "BPE":
        raise _refusal(f"its model is {model.get('type')}, not BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _refusal(f"its model has {key} = {model[key]!r:.40}")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _refusal(f"it changes characters before it cuts ({normalizer.get('type')})")
    pattern = (_pattern(document.get("pre_tokenizer")), bool(model.get("ignore_merges")))
    if pattern not in _PATTERNS:
        raise _refusal("none of its patterns cuts text into the same words")
    tokens = [f"[unused {number}]" for number in range(tokenizer.vocab_size)]
    types = [_UNUSED] * len(tokens)
    for text, number in model["vocab"].items():
        tokens[number], types[number] = text, _NORMAL
    for added in document.get("added_tokens") or ():
        if any(added.get(key) for key in ("lstrip", "rstrip", "single_word")):
            raise _refusal(f"its token {added['content']!r:.60} takes spaces beside it, or whole words alone")
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    types[tokenizer.end_of_text] = CONTROL
    remarks = []
    if normalizer is not None:
        remarks.append("the tokenizer composes accents (NFC), llama.cpp doesn't: ids differ where a text has others")
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return Vocabulary("gpt2", _PATTERNS[pattern], tokens, types, merges=merges, remarks=remarks)


def _pattern(step: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the patterns by which a pre-tokenizer cuts, one after the other; ("",): it does something else too."""
    if step is None:
        return ("",)
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(part for each in step["pretokenizers"] for part in _pattern(each))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return (_WORDS,) if step.get("use_regex", True) else ()
    if kind == "Digits" and step.get("individual_digits"):
        return (_DIGITS,)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return (str(step["pattern"].get("Regex")),)
    return ("",)
