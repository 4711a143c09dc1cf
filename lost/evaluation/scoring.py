"""How likely a model finds given tokens: rows of any lengths, put into batches of like length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lost.data.batch import Batch
from lost.engine import Engine


@dataclass(frozen=True)
class Row:
    """Tokens, the last of which are asked for.

    Attributes:
        tokens: (s + 1,) ids; the model reads all but the last.
        asked: how many of the last tokens are scored, from 1 to s.
    """

    tokens: np.ndarray
    asked: int


@dataclass(frozen=True)
class Score:
    """What a model makes of a row.

    Attributes:
        log_likelihood: of the tokens asked for, summed in float64; natural log.
        greedy: whether each of them is the likeliest after what precedes it.
    """

    log_likelihood: float
    greedy: bool


def score_rows(
    engine: Engine, rows: Sequence[Row], tokens_at_once: int, progress: Callable[[int], None] = lambda done: None
) -> list[Score]:
    """Score every row; which rows share a batch changes nothing but rounding.

    Rows are padded to the right only, where no causal model looks, and what is predicted there isn't read.

    Args:
        engine: holds the model.
        rows: in any order; the scores come in the same.
        tokens_at_once: what a batch may hold, padding included; a longer row is a batch by itself.
        progress: told how many rows are done.
    """
    scores: dict[int, Score] = {}
    batches = list(_batches(rows, tokens_at_once))
    answers = engine.score(_padded([rows[number] for number in numbers]) for numbers in batches)
    for numbers, (nll, likeliest) in zip(batches, answers, strict=True):
        for place, number in enumerate(numbers):
            asked = slice(len(rows[number].tokens) - 1 - rows[number].asked, len(rows[number].tokens) - 1)
            total = float(nll[place, asked].sum(dtype=np.float64))
            scores[number] = Score(-total, bool(likeliest[place, asked].all()))
        progress(len(scores))
    return [scores[number] for number in range(len(rows))]


def _batches(rows: Sequence[Row], tokens_at_once: int) -> Iterator[list[int]]:
    """Yield the numbers of the rows of each batch, the longest first: what doesn't fit in memory shows at once."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].tokens))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]].tokens) - 1
        end = start + max(1, tokens_at_once // longest)
        yield order[start:end]
        start = end


def _padded(rows: Sequence[Row]) -> Batch:
    width = max(len(row.tokens) for row in rows)
    tokens, counted = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width - 1), bool)
    for place, row in enumerate(rows):
        end = len(row.tokens)
        tokens[place, :end] = row.tokens
        counted[place, end - 1 - row.asked : end - 1] = True
    return Batch(tokens, counted)
