"""Batches: sequences that go through the model together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lost.errors import DataError

Sample = tuple[np.ndarray, np.ndarray | None]
"""Tokens (s + 1,) int32, and which of the s predictions count, bool; None: all."""


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher predicts, as far as it was kept: its likeliest entries of the vocabulary, each once.

    Attributes:
        ids: (b, s, k) int32.
        log_probabilities: (b, s, k) float32, natural log; what they leave of 1 is the rest's together.
    """

    ids: np.ndarray
    log_probabilities: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Sequences that go through the model together.

    Attributes:
        tokens: (b, s + 1) int32: the model reads tokens[:, :-1] and predicts tokens[:, 1:].
        mask: (b, s) bool, the predictions that enter the loss; None: all.
        soft: what a teacher predicted there; None: nothing is known of it.
    """

    tokens: np.ndarray
    mask: np.ndarray | None = None
    soft: SoftTargets | None = None

    @property
    def predictions(self) -> int:
        """Number of predictions that enter the loss."""
        return int(self.mask.sum()) if self.mask is not None else self.tokens[:, 1:].size


def check_tokens(tokens: np.ndarray | Sequence[int], entries: int) -> None:
    """See that a model can look up every token: a backend may read foreign memory where it can't.

    Raises:
        DataError: one is negative, or beyond the vocabulary.
    """
    ids = np.asarray(tokens)
    if ids.size and (ids.min() < 0 or ids.max() >= entries):
        raise DataError(
            f"there are tokens from {ids.min()} to {ids.max()}; expected ids from 0 to {entries - 1}, the model's "
            "vocabulary; prepare the text with the model's own tokenizer"
        )


def packed(batch: Batch) -> np.ndarray:
    """Return tokens and mask as one array, (b, s + 1) int32: the bits of targets that don't count are inverted.

    So they are negative, which no token is. Without a mask these may be the batch's own tokens.
    """
    if batch.mask is None:
        return np.require(batch.tokens, np.int32, "W")
    tokens = np.array(batch.tokens, np.int32)
    tokens[:, 1:] ^= batch.mask.view(np.int8) - np.int8(1)  # 0, which changes no bit, or -1, which inverts all
    return tokens


def with_last(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield each batch with whether it is the last one."""
    coming = iter(batches)
    batch = next(coming)
    for following in coming:
        yield batch, False
        batch = following
    yield batch, True


def stacked(samples: list[Sample]) -> Batch:
    """Return samples as one batch; either all or none have predictions that don't count."""
    masks = [mask for _, mask in samples if mask is not None]
    return Batch(np.stack([tokens for tokens, _ in samples]), np.stack(masks) if masks else None)
