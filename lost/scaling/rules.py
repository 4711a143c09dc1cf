"""Published rules for a run that is still to be chosen: rate and batch, repetition, how large a batch still pays."""

import math

TOKENS_PER_PARAMETER = 20
"""So many use a dense model's compute best (Hoffmann et al., arXiv 2203.15556); of other kinds nobody knows it.

Taken here of parameters without embeddings, as laws count them.
"""
_HALF_LIFE = 15.387756  # of repeated text, in epochs: Muennighoff et al., arXiv 2305.16264, appendix A


def step_law_rate(size: float, tokens: float, by_width: float = -1.0) -> float:
    """Return the best peak rate of AdamW by Step Law (Li et al., arXiv 2503.04715).

    As it stands it was 2.2 to 2.4 times too high in docs/experiments.md, for dense and LOST alike; so ratios of it
    serve, from a run whose rate was tuned. Ratios for other optimizers too, whose rates fall less as models widen:
    Muon's half as much, in proportion to `by_width`.

    Args:
        size: trained parameters without embedding and head.
        tokens: of the run.
        by_width: power of the width by which the optimizer's rates go; AdamW's is -1.
    """
    return 1.79 * size ** (0.713 * by_width) * tokens**0.307


def step_law_batch(tokens: float) -> float:
    """Return the best batch in tokens by the same law, for a run of so many tokens."""
    return 0.58 * tokens**0.571


def critical_batch(loss: float) -> float:
    """Return the batch in tokens from which on larger ones save few steps (Kaplan et al., arXiv 2001.08361).

    An estimate of its order alone: the constants are of another tokenizer and other text.

    Args:
        loss: that the run comes to, in nats a token.
    """
    return 2.1e8 * loss ** (-1 / 0.21)


def worth(epochs: float) -> float:
    """Return how many epochs of text never seen before do as much as so many of the same (arXiv 2305.16264)."""
    repeats = max(0.0, epochs - 1)
    return min(epochs, 1.0) + _HALF_LIFE * -math.expm1(-repeats / _HALF_LIFE)


def round_batch(sequences: float) -> int:
    """Return the nearest of 1, 2, 3, 4, 6, 8, 12, ...: batches that divide well into micro-batches."""
    powers = [2**power for power in range(40)]
    return min({1, *powers, *(3 * power for power in powers)}, key=lambda size: abs(math.log(size / sequences)))
