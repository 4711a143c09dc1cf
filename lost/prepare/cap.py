"""A cap on how much text is taken: the documents that come first in an order drawn by a seed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lost.data.permutation import Permutation
from lost.prepare.encode import Encoded

_TOKEN_BYTES = 8  # of text, more than a token has: how far ahead a first look goes


@dataclass(frozen=True)
class Cap:
    """How much of the text is taken, what is held out of it included.

    Attributes:
        documents: the most; None: any number.
        tokens: the most, ends of text included; None: any number.
        seed: of the order in which parts of the text are drawn.
    """

    documents: int | None = None
    tokens: int | None = None
    seed: int = 0

    def drawn(self, count: int) -> Iterator[int]:
        """Yield the numbers of `count` parts in the order in which they are taken."""
        order = Permutation(count, self.seed, 0, "parts of the text") if count else None
        yield from order(np.arange(count)).tolist() if order else ()

    @property
    def most_bytes(self) -> int | None:
        """Bytes of text that suffice for `tokens`."""
        return self.tokens and self.tokens * _TOKEN_BYTES

    def cut(self, batch: Encoded, tokens: int, end_of_text: int) -> tuple[Encoded, bool]:
        """Return what of a batch fits, its first documents, whole; and whether that is not all of them.

        Args:
            batch: documents that come next.
            tokens: how many were taken before.
            end_of_text: the token with which every document ends.
        """
        room = None if self.tokens is None else self.tokens - tokens
        if room is None or sum(len(ids) for ids, _ in batch.splits.values()) <= room:
            return batch, False
        ends = {name: np.flatnonzero(ids == end_of_text) + 1 for name, (ids, _) in batch.splits.items()}
        taken, reached = dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)
        for name in batch.order:
            end = int(ends[name][taken[name]])
            if sum(reached.values()) - reached[name] + end > room:
                break
            taken[name], reached[name] = taken[name] + 1, end
        splits = {name: (ids[: reached[name]], sizes[: taken[name]]) for name, (ids, sizes) in batch.splits.items()}
        return replace(batch, splits=splits, order=batch.order[: sum(taken.values())]), True
