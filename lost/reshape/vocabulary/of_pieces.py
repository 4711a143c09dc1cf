"""Pruning of sentencepiece models: pieces go, what else the file says stays."""

import math
from collections.abc import Set

from lost.interop.to_hf.pieces import BPE, BYTE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, read_pieces, with_pieces
from lost.reshape.vocabulary.merging import steps_to
from lost.tokenizer import Tokenizer
from lost.tokenizer.sentencepiece import SPACE, PieceTokenizer


class PieceVocabulary:
    """The pieces of a sentencepiece model.

    Args:
        tokenizer: the model.
    """

    def __init__(self, tokenizer: PieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._model = read_pieces(tokenizer.files[tokenizer.FILE])
        apart = (UNKNOWN, CONTROL, BYTE)  # no merge makes them
        self._numbers = {each.text: n for n, each in enumerate(self._model.pieces) if each.kind not in apart}

    @property
    def always(self) -> Set[int]:
        """The pieces that every text may need, and those that are no text."""
        found = {number for number, each in enumerate(self._model.pieces) if each.kind != NORMAL or each.text == SPACE}
        if not self._model.byte_fallback:
            found |= {number for text, number in self._numbers.items() if len(text) == 1}
        if self._model.kind == UNIGRAM:  # an unknown character's score is below the lowest
            found.add(min(self._numbers.values(), key=lambda number: self._model.pieces[number].score))
        return found

    def steps_to(self, number: int) -> Set[int]:
        """Return the pieces that make one, itself among them."""
        text = self._model.pieces[number].text
        if self._model.kind != BPE or self._numbers.get(text) != number:
            return {number}
        return {self._numbers[each] for each in steps_to(text, self._rank) if each in self._numbers} | {number}

    def _rank(self, left: str, right: str) -> float:
        number = self._numbers.get(left + right)
        return math.inf if number is None else -self._model.pieces[number].score

    def pruned(self, kept: Set[int]) -> tuple[Tokenizer, list[int]]:
        """Return the tokenizer of these pieces, and their old ids in the new order."""
        order = sorted(kept)
        content = with_pieces(self._tokenizer.files[self._tokenizer.FILE], order)
        made, template = PieceTokenizer(content, "the pruned tokenizer"), self._tokenizer.chat_template
        return (made.with_chat_template(template) if template else made), order
