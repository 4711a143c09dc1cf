"""Samples of a run in their order: windows of a split, visited once an epoch, stacked to batches."""

from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from lost.data.batch import Batch, Sample, stacked
from lost.data.dataset import Split
from lost.data.loss_mask import EXAMPLE_START, IN_LOSS, LossMask
from lost.data.permutation import Permutation
from lost.data.soft_targets.reader import SoftTargetSet
from lost.errors import DataError


class SampleStream(Protocol):
    """The samples of a run in their order. A run's position is one integer: the number of samples consumed."""

    @property
    def has_mask(self) -> bool:
        """Whether some predictions don't enter the loss."""

    def batch(self, first: int, count: int) -> Batch:
        """Return samples [first, first + count)."""

    def predictions(self, first: int, count: int) -> int:
        """Count the predictions that enter the loss in samples [first, first + count)."""

    def epochs(self, samples: int) -> list[float]:
        """Return how many epochs of each set this number of samples is."""


class TrainingStream:
    """The samples of one set: each epoch visits every window once, in an order that is keyed by (seed, epoch).

    Args:
        split: the training text.
        seq_len: predictions a sample.
        seed: of the run.
        key: tells the orders of several sets apart.
        soft: what a teacher predicts for these windows.

    Attributes:
        windows: samples an epoch.
        has_mask: whether some predictions don't enter the loss.
    """

    def __init__(self, split: Split, seq_len: int, seed: int, key: str = "", soft: SoftTargetSet | None = None) -> None:
        self._samples, self._soft = windows(split, seq_len), soft
        self.windows = self._samples.count
        self.has_mask = split.loss_mask is not None
        self._permutation = lru_cache(maxsize=2)(lambda epoch: Permutation(self.windows, seed, epoch, f"{key}epoch"))

    def batch(self, first: int, count: int) -> Batch:
        """Return samples [first, first + count), which may run over the end of an epoch."""
        numbers = self._windows(first, count)
        batch = stacked([self._samples.read(int(window)) for window in numbers])
        return replace(batch, soft=self._soft.read(numbers)) if self._soft else batch

    def sample(self, number: int) -> Sample:
        """Return one sample."""
        return self._samples.read(int(self._windows(number, 1)[0]))

    def predictions(self, first: int, count: int) -> int:
        """Count the predictions that enter the loss in samples [first, first + count)."""
        return self._samples.predictions(self._windows(first, count) if self.has_mask else np.arange(count))

    def epochs(self, samples: int) -> list[float]:
        """Return how many epochs of the set this number of samples is."""
        return [samples / self.windows]

    def _windows(self, first: int, count: int) -> np.ndarray:
        """Return the numbers of the windows that samples [first, first + count) are."""
        epochs, positions = np.divmod(np.arange(first, first + count), self.windows)
        return np.concatenate([self._permutation(int(each))(positions[epochs == each]) for each in np.unique(epochs)])


class Windows(Protocol):
    """Samples by number.

    Attributes:
        count: how many there are; their numbers begin at 0.
    """

    count: int

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return tokens (s + 1,) int32, and which of the s predictions count, bool; None: all."""

    def predictions(self, numbers: np.ndarray) -> int:
        """Count the predictions that enter the loss in these windows together."""


def windows(split: Split, seq_len: int) -> Windows:
    """Return the samples of a split.

    Raises:
        DataError: there is not even one.
    """
    if split.loss_mask is None:
        return TextWindows(split, seq_len)
    return ExampleWindows(split, split.loss_mask, seq_len)


class TextWindows:
    """Windows of text, each beginning where the one before was last predicted. Every prediction counts."""

    def __init__(self, split: Split, seq_len: int) -> None:
        self._split, self._seq_len, self.count = split, seq_len, split.windows(seq_len)

    def read(self, number: int) -> tuple[np.ndarray, None]:
        """Return tokens (s + 1,)."""
        return self._split.read(number * self._seq_len, self._seq_len + 1), None

    def predictions(self, numbers: np.ndarray) -> int:
        """Count the predictions."""
        return len(numbers) * self._seq_len


class ExampleWindows:
    """Windows that begin with an example, and hold as many of those that follow as fit without being cut.

    So a completion is always predicted from all of its prompt. What a window holds after its last complete example is
    the beginning of the next one, which isn't counted: the next window begins with it. Only an example that is longer
    than a window is cut, and counted piece by piece. Each target is counted in exactly one window; windows without any
    are left out.
    """

    def __init__(self, split: Split, loss_mask: LossMask, seq_len: int) -> None:
        split.windows(seq_len)  # whether one fits
        self._split, self._mask, self._seq_len = split, loss_mask.mask, seq_len
        borders = _borders(np.flatnonzero(self._mask & EXAMPLE_START), split.tokens, seq_len)
        counts = np.add.reduceat(self._mask & IN_LOSS, borders[:-1], dtype=np.int64)
        chosen = np.flatnonzero(counts)
        if not len(chosen):
            raise DataError(f"the {split.name} split has no target, nothing to learn; prepare the examples again")
        self._firsts, self._ends, self._counts = borders[:-1][chosen], borders[1:][chosen], counts[chosen]
        self.count = len(chosen)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens (s + 1,), and which of the s predictions count."""
        first, end = int(self._firsts[number]), int(self._ends[number])
        start = min(first - 1, self._split.tokens - self._seq_len - 1)  # the last ones have more before them
        places = np.arange(start + 1, start + self._seq_len + 1)
        mask = (self._mask[places] & IN_LOSS).astype(bool) & (places >= first) & (places < end)
        return self._split.read(start, self._seq_len + 1), mask

    def predictions(self, numbers: np.ndarray) -> int:
        """Count the targets."""
        return int(self._counts[numbers].sum())

    def reaching(self, targets: int | None) -> int:
        """Return how many windows, from the first, hold this number of targets together; None: all of them."""
        if targets is None:
            return self.count
        return min(int(np.searchsorted(np.cumsum(self._counts), targets)) + 1, self.count)


def _borders(begins: np.ndarray, tokens: int, seq_len: int) -> np.ndarray:
    """Return where windows begin to count, and the end of the split: never more than seq_len tokens apart."""
    begins = np.append(begins, tokens)
    borders = [int(begins[0])]
    while borders[-1] < tokens:
        reach = borders[-1] + seq_len
        last = int(begins[np.searchsorted(begins, reach, "right") - 1])
        borders.append(last if last > borders[-1] else reach)
    return np.array(borders)
