"""What byte-pair encoding makes on its way to a token: what must stay in the vocabulary with it."""

import math
from collections.abc import Callable
from itertools import pairwise

from lost.errors import DataError

_LONGEST = 1 << 10  # characters of a token: the time grows with their square


def steps_to(text: str, rank: Callable[[str, str], float]) -> set[str]:
    """Return all that is merged on the way to a token, from its characters up.

    What a whole text makes inside a token's span is what the span alone makes: a merge across its border would have
    made another token. So a vocabulary that keeps these steps merges each text that it keeps as before.

    Args:
        text: of the token, as merges spell it.
        rank: of the merge of two neighbours: the lowest comes first; infinity: they don't merge.

    Raises:
        DataError: the token is absurdly long.
    """
    if len(text) > _LONGEST:
        raise DataError(
            f"the tokenizer has a token of {len(text):,} characters, {text[:20]!r}...; expected at most {_LONGEST:,}; "
            "such a vocabulary isn't pruned"
        )
    symbols = list(text)
    made = set(symbols)
    while len(symbols) > 1:
        ranks = [rank(*pair) for pair in pairwise(symbols)]
        best = min(ranks)
        if best == math.inf:
            break
        place = ranks.index(best)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        made.add(symbols[place])
    return made
