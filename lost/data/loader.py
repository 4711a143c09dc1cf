"""Which tokens an optimizer step sees, and which an evaluation does."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from lost.data.dataset import Split
from lost.data.packing import ExampleWindows, windows
from lost.data.permutation import Permutation
from lost.errors import DataError

Sample = tuple[np.ndarray, np.ndarray | None]
"""Tokens (s + 1,) int32, and which of the s predictions count, bool; None: all."""


@dataclass(frozen=True)
class Batch:
    """Sequences that go through the model together.

    Attributes:
        tokens: (b, s + 1) int32: the model reads tokens[:, :-1] and predicts tokens[:, 1:].
        counted: (b, s) bool, the predictions that enter the loss; None: all.
    """

    tokens: np.ndarray
    counted: np.ndarray | None = None

    @property
    def predictions(self) -> int:
        """Number of predictions that enter the loss."""
        return int(self.counted.sum()) if self.counted is not None else self.tokens[:, 1:].size


def check_tokens(tokens: np.ndarray | Sequence[int], entries: int) -> None:
    """See that a model can look up every token: a backend may read foreign memory where it can't.

    Raises:
        DataError: one is beyond the vocabulary of so many entries, or negative.
    """
    ids = np.asarray(tokens)
    if ids.size and (ids.min() < 0 or ids.max() >= entries):
        raise DataError(
            f"there are tokens from {ids.min()} to {ids.max()}; expected ids from 0 to {entries - 1}, the model's "
            "vocabulary; prepare the text with the model's own tokenizer"
        )


def with_last(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield each batch with whether it is the last one."""
    coming = iter(batches)
    batch = next(coming)
    for following in coming:
        yield batch, False
        batch = following
    yield batch, True


class SampleStream(Protocol):
    """The samples of a run in their order. Where a run stands is one integer: the samples consumed so far."""

    @property
    def partial(self) -> bool:
        """Whether some predictions don't enter the loss."""

    def batch(self, first: int, count: int) -> Batch:
        """Return samples [first, first + count)."""

    def predictions(self, first: int, count: int) -> int:
        """Count the predictions that enter the loss in samples [first, first + count)."""

    def epochs(self, samples: int) -> list[float]:
        """Return how often so many samples go through each set."""


class TrainingStream:
    """The samples of one set: each epoch visits every window once, in an order that is keyed by (seed, epoch).

    Args:
        split: the training text.
        seq_len: predictions a sample.
        seed: of the run.
        key: tells the orders of several sets apart.

    Attributes:
        windows: samples an epoch.
        partial: whether some predictions don't enter the loss.
    """

    def __init__(self, split: Split, seq_len: int, seed: int, key: str = "") -> None:
        self._samples = windows(split, seq_len)
        self.windows = self._samples.count
        self.partial = split.targets is not None
        self._permutation = lru_cache(maxsize=2)(lambda epoch: Permutation(self.windows, seed, epoch, f"{key}epoch"))

    def batch(self, first: int, count: int) -> Batch:
        """Return samples [first, first + count), which may run over the end of an epoch."""
        return stacked([self._samples.read(int(window)) for window in self._windows(first, count)])

    def sample(self, number: int) -> Sample:
        """Return one sample."""
        return self._samples.read(int(self._windows(number, 1)[0]))

    def predictions(self, first: int, count: int) -> int:
        """Count the predictions that enter the loss in samples [first, first + count)."""
        return self._samples.predictions(self._windows(first, count))

    def epochs(self, samples: int) -> list[float]:
        """Return how often so many samples go through the set."""
        return [samples / self.windows]

    def _windows(self, first: int, count: int) -> np.ndarray:
        """Return the numbers of the windows that samples [first, first + count) are."""
        epochs, positions = np.divmod(np.arange(first, first + count), self.windows)
        return np.concatenate([self._permutation(int(each))(positions[epochs == each]) for each in np.unique(epochs)])


def stacked(samples: list[Sample]) -> Batch:
    """Return samples as one batch; either all or none have predictions that don't count."""
    counted = [marks for _, marks in samples if marks is not None]
    return Batch(np.stack([tokens for tokens, _ in samples]), np.stack(counted) if counted else None)


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
    whole = np.arange(total // length) * length
    for start in range(0, len(whole), batch_size):
        chosen = whole[start : start + batch_size]
        yield Batch(tokens[chosen[:, None] + np.arange(length + 1)].astype(np.int32))
    if rest := total % length:
        counted = np.zeros((1, length), bool)
        counted[:, -rest:] = True
        yield Batch(tokens[None, total - length : total + 1].astype(np.int32), counted)


def example_batches(split: Split, seq_len: int, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Cut examples into windows in which each target is predicted exactly once.

    Args:
        split: a split with targets.
        seq_len: predictions a window; fewer where the split has fewer.
        batch_size: windows a batch.
        limit: stop after the window with which so many targets are reached; None: all.
    """
    assert split.targets is not None
    samples = ExampleWindows(split, split.targets, min(seq_len, split.tokens - 1))
    last = samples.reaching(limit)
    for start in range(0, last, batch_size):
        yield stacked([samples.read(number) for number in range(start, min(start + batch_size, last))])
