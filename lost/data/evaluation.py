"""Evaluation batches: each token of a text, or each target of a set of examples, predicted exactly once."""

from collections.abc import Iterator

import numpy as np

from lost.data.batch import Batch, stacked
from lost.data.dataset import Split
from lost.data.loader import ExampleWindows
from lost.errors import DataError


def evaluation_batches(tokens: np.ndarray, seq_len: int, batch_size: int) -> Iterator[Batch]:
    """Cut one long text into windows in which every token but the first is predicted exactly once.

    The last window is extended to the left, so that every window is full and its predictions have their context; only
    the new ones are counted. Text shorter than a window makes one short batch.

    Args:
        tokens: (n,) ids, the first of which is context only.
        seq_len: predictions a window.
        batch_size: windows a batch.

    Raises:
        DataError: fewer than two tokens.
    """
    if len(tokens) < 2:
        raise DataError(f"there are {len(tokens)} tokens to evaluate; expected at least two; choose a longer text")
    total = len(tokens) - 1
    length = min(seq_len, total)
    starts = np.arange(total // length) * length
    for first in range(0, len(starts), batch_size):
        together = starts[first : first + batch_size]
        yield Batch(tokens[together[:, None] + np.arange(length + 1)].astype(np.int32))
    if rest := total % length:
        mask = np.zeros((1, length), bool)
        mask[:, -rest:] = True
        yield Batch(tokens[None, total - length : total + 1].astype(np.int32), mask)


def example_batches(split: Split, seq_len: int, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Cut examples into windows in which each target is predicted exactly once.

    Args:
        split: a split with targets.
        seq_len: predictions a window; fewer where the split has fewer.
        batch_size: windows a batch.
        limit: stop after the window in which this number of targets is reached; None: all.
    """
    assert split.loss_mask is not None
    samples = ExampleWindows(split, split.loss_mask, min(seq_len, split.tokens - 1))
    last = samples.reaching(limit)
    for start in range(0, last, batch_size):
        yield stacked([samples.read(number) for number in range(start, min(start + batch_size, last))])
