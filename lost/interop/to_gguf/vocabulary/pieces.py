"""Pieces that merge by score, as sentencepiece's BPE has them: llama.cpp's kind `llama`.

It joins the two pieces whose whole has the highest score, but takes every entry of the vocabulary for a piece, and
changes no character before.
"""

from collections.abc import Mapping
from typing import Any

from lost.interop.to_gguf.vocabulary.form import Vocabulary, refusal
from lost.interop.to_hf.pieces import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Piece, PieceModel
from lost.tokenizer.sentencepiece import SPACE
from lost.tokenizer.spelling import BYTE_PIECE

_APART = "\ue000"  # a private character, which no piece holds
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_NORMALIZERS = {False: [_SPACES], True: [{"type": "Prepend", "prepend": SPACE}, _SPACES]}  # by whether a space is put


def of_pieces(model: PieceModel) -> Vocabulary:
    """Return a sentencepiece model as llama.cpp has it.

    Raises:
        DataError: it would give other ids.
    """
    problems = {
        "it is no BPE model (of equally likely cuts it chooses another)": model.kind != BPE,
        "it has no bytes for unknown characters": not model.byte_fallback,
        "it changes characters before it cuts": bool(model.characters),
        "it makes one space of several": model.collapse_spaces,
        "it has unused pieces": any(piece.kind == UNUSED for piece in model.pieces),
        "it puts a space before a text, but not behind its own symbols": model.dummy_prefix
        and any(piece.kind == USER_DEFINED for piece in model.pieces),
    }
    if found := next((problem for problem, given in problems.items() if given), None):
        raise refusal(found)
    texts = {piece.text for piece in model.pieces}
    tokens = []
    for piece in model.pieces:
        reached = piece.kind in (UNKNOWN, CONTROL, BYTE) and _merges_make(piece.text, texts)
        if reached and piece.kind == BYTE:
            raise refusal(f"the text {piece.text!r} written out would become that byte")
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


def piece_model(document: Mapping[str, Any], entries: int, end_of_text: int) -> PieceModel:
    """Return the sentencepiece model that a tokenizer.json was made from, as an export of ours was.

    Args:
        document: its content; its model is BPE with bytes for unknown characters.
        entries: how many it has.
        end_of_text: the token that separates documents.

    Raises:
        DataError: no scores give its merges, or it does something else too.
    """
    model, normalizer = document["model"], document.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if document.get("pre_tokenizer") is not None or model.get("ignore_merges") or steps not in _NORMALIZERS.values():
        raise refusal("it changes text before it cuts, or cuts more than once")
    merges = [tuple(each.split(" ") if isinstance(each, str) else each) for each in model["merges"]]
    scores = _scores(merges)
    pieces = [Piece(f"[unused {number}]", 0.0, UNUSED) for number in range(entries)]
    for text, number in model["vocab"].items():
        kind = BYTE if BYTE_PIECE.fullmatch(text) else NORMAL
        pieces[number] = Piece(text, scores.get(text, 0.0), kind)
    for added in document.get("added_tokens") or ():
        pieces[added["id"]] = Piece(added["content"], 0.0, CONTROL if added.get("special") else USER_DEFINED)
    pieces[end_of_text] = Piece(pieces[end_of_text].text, 0.0, CONTROL)
    unknown = model["vocab"].get(model.get("unk_token"), -1)
    if unknown >= 0:
        pieces[unknown] = Piece(pieces[unknown].text, 0.0, UNKNOWN)
    normal, listed = {piece.text for piece in pieces if piece.kind == NORMAL}, set(merges)
    for text in normal:
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if normal.issuperset(pair) and pair not in listed:
                raise refusal(f"two of its pieces make a third, {text!r:.60}, and aren't merged")
    return PieceModel(pieces, BPE, unknown, True, b"", dummy_prefix=steps == _NORMALIZERS[True], collapse_spaces=False)


def _scores(merges: list[tuple[str, ...]]) -> dict[str, float]:
    """Return scores of pieces by which they merge in this order."""
    scores: dict[str, float] = {}
    last = None
    for whole in map("".join, merges):
        if whole != last and whole in scores:
            raise refusal(f"its merges to {whole!r:.60} stand apart, so that no score gives them")
        scores.setdefault(whole, -1.0 - len(scores))
        last = whole
    return scores
