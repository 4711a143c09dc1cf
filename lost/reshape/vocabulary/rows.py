"""Which rows of a model's embedding and head another vocabulary has: old ones, and means of old ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lost.errors import DataError
from lost.planning.vocabulary import PADDED
from lost.tokenizer import Tokenizer
from lost.tokenizer.base import Entry

_GAPS = 1 << 16  # ids without a token that a tokenizer may have: each of them is a row of the model
_BEFORE = ("", "\n", ".", "x")  # texts behind which another one is tried


@dataclass(frozen=True)
class Rows:
    """What the rows of another vocabulary are made of.

    Attributes:
        old: the old rows of each new one: one, which is copied, or several, of which it is the mean; none: of all.
        tokens: how many of the new rows have a token; those behind are padding.
    """

    old: Sequence[Sequence[int]]
    tokens: int

    @property
    def copied(self) -> int:
        """How many old rows are kept as they were: each once, though a letter and its byte may both begin with one."""
        return len({each[0] for each in self.old[: self.tokens] if len(each) == 1})

    def moved(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the new tokens whose rows are those of old ones, in the order of these; some may have none."""
        places = {each[0]: new for new, each in reversed([*enumerate(self.old[: self.tokens])]) if len(each) == 1}
        return tuple(places[number] for number in numbers if number in places)

    def of(self, table: np.ndarray) -> np.ndarray:
        """Return the new table (n, hidden) of an old one (m, hidden), in its type; means are taken in float64."""
        made = np.empty((len(self.old), table.shape[1]), table.dtype)
        whole = table.mean(axis=0, dtype=np.float64)
        for row, numbers in enumerate(self.old):
            if len(numbers) == 1:
                made[row] = table[numbers[0]]
            else:
                made[row] = table[list(numbers)].mean(axis=0, dtype=np.float64) if numbers else whole
        return made


def selected(numbers: Sequence[int]) -> Rows:
    """Return the rows of a vocabulary that keeps these tokens of the old one."""
    return Rows([[number] for number in numbers], len(numbers))


def corresponding(old: Tokenizer, new: Tokenizer, table_rows: int) -> Rows:
    """Return the rows for another tokenizer.

    A token that both know keeps its row: the same text, or the same name if it is special; end-of-text is end-of-text
    by any name. Another one has the rows of the old tokens that its text was, and a special one, which was no text, the
    mean of all.

    Args:
        old: the model's tokenizer.
        new: the other one.
        table_rows: of the model. Where these are more than `old` has tokens, the new ones are padded likewise.

    Raises:
        DataError: the new tokenizer's ids have too many gaps.
    """
    check_gaps(new)
    known, entries = _Known(old), new.entries()
    made: list[Sequence[int]] = [known.rows(entries.get(number)) for number in range(new.vocab_size)]
    made[new.end_of_text] = [old.end_of_text]
    if unused := range(old.vocab_size, table_rows):
        padding = -new.vocab_size % math.gcd(table_rows, PADDED)
        made += [[unused[number % len(unused)]] for number in range(padding)]
    return Rows(made, new.vocab_size)


def check_gaps(tokenizer: Tokenizer) -> None:
    """Check that a stranger's tokenizer doesn't ask for many more rows than it has tokens.

    Raises:
        DataError: it does.
    """
    tokens = len(tokenizer.entries()) if tokenizer.vocab_size > _GAPS else tokenizer.vocab_size
    if tokenizer.vocab_size - tokens > _GAPS:
        raise DataError(
            f"the tokenizer has {tokens:,} tokens, and ids up to {tokenizer.vocab_size - 1:,}; expected at most "
            f"{_GAPS:,} ids without a token, as the model gets a row for each; number its tokens anew, or use another"
        )


class _Known:
    """The old tokenizer's tokens, to be found by what they stand for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._entries = tokenizer, tokenizer.entries()
        self._same: Mapping[Entry, int] = {entry: number for number, entry in reversed(self._entries.items())}
        texts = sorted(self._same.items(), key=lambda pair: pair[0].kind == "text")  # rather than a byte
        self._texts = {entry.text: number for entry, number in texts if entry.kind != "special"}

    def rows(self, entry: Entry | None) -> list[int]:
        """Return the old tokens that a new one is, or is made of."""
        if entry is None:
            return []
        if entry in self._same:
            return [self._same[entry]]
        if entry.kind == "special":
            return []
        if entry.text in self._texts:
            return [self._texts[entry.text]]
        try:
            return self._pieces(entry.text.decode())
        except UnicodeDecodeError:  # a part of a character, which no text can be
            return [self._texts[byte] for byte in map(bytes, zip(entry.text, strict=True)) if byte in self._texts]

    def _pieces(self, text: str) -> list[int]:
        """Return the ids of a text that goes on: some tokenizers begin one with a space, or as a word."""
        for before in _BEFORE:
            first: list[int] = self._tokenizer.encode(before).tolist()
            ids: list[int] = self._tokenizer.encode(before + text).tolist()
            entries = [self._entries.get(number) for number in ids[len(first) :]]
            joined = b"".join(entry.text for entry in entries if entry and entry.kind != "special")
            if ids[: len(first)] == first and joined == text.encode():
                return ids[len(first) :]
        return self._tokenizer.encode(text).tolist()
