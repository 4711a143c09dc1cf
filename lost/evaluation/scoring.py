"""Log-likelihoods of given tokens: requests of any length, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lost.data.batch import Batch
from lost.engine import Engine


@dataclass(frozen=True)
class ScoreRequest:
    """Tokens, the last of which are to be scored.

    Attributes:
        tokens: (s + 1,) ids; the model reads all but the last.
        num_targets: how many of the last tokens are scored, from 1 to s.
    """

    tokens: np.ndarray
    num_targets: int

    @property
    def targets(self) -> slice:
        """The predictions that are scored, of the s that the model makes."""
        predictions = len(self.tokens) - 1
        return slice(predictions - self.num_targets, predictions)


@dataclass(frozen=True)
class Score:
    """The answer to a request.

    Attributes:
        log_likelihood: of the targets, summed in float64; natural log.
        greedy: whether each target is the likeliest token in its context.
    """

    log_likelihood: float
    greedy: bool


def score_requests(
    engine: Engine,
    requests: Sequence[ScoreRequest],
    tokens_at_once: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """Score every request; which requests share a batch affects rounding only.

    Requests are padded on the right, which no causal model sees, and predictions there are ignored.

    Args:
        engine: holds the model.
        requests: in any order.
        tokens_at_once: tokens a batch may hold, padding included; a longer request is a batch by itself.
        progress: called with the number of requests done.

    Returns:
        The scores, in the order of the requests.
    """
    scores: dict[int, Score] = {}
    batches = list(_batches(requests, tokens_at_once))
    answers = engine.score(_padded([requests[number] for number in numbers]) for numbers in batches)
    for numbers, (nll, likeliest) in zip(batches, answers, strict=True):
        for row, number in enumerate(numbers):
            targets = requests[number].targets
            total = float(nll[row, targets].sum(dtype=np.float64))
            scores[number] = Score(-total, bool(likeliest[row, targets].all()))
        progress(len(scores))
    return [scores[number] for number in range(len(requests))]


def _batches(requests: Sequence[ScoreRequest], tokens_at_once: int) -> Iterator[list[int]]:
    """Yield the numbers of the requests of each batch, longest first, so that running out of memory shows at once."""
    order = sorted(range(len(requests)), key=lambda number: -len(requests[number].tokens))
    start = 0
    while start < len(order):
        longest = len(requests[order[start]].tokens) - 1
        end = start + max(1, tokens_at_once // longest)
        yield order[start:end]
        start = end


def _padded(requests: Sequence[ScoreRequest]) -> Batch:
    width = max(len(request.tokens) for request in requests)
    tokens, mask = np.zeros((len(requests), width), np.int32), np.zeros((len(requests), width - 1), bool)
    for row, request in enumerate(requests):
        tokens[row, : len(request.tokens)] = request.tokens
        mask[row, request.targets] = True
    return Batch(tokens, mask)
