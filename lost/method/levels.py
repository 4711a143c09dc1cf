"""Sizes that a weight may be compressed to, and what each of them loses: prefixes of one decomposition."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lost.method.compress import UNWEIGHTED, Weighting, keep_channels, weighted_pair, with_ridge
from lost.method.decompose import channel_count

_STEP = 8  # between ranks, doubled until a weight has no more of them than this:
_MOST_LEVELS = 32


@dataclass(frozen=True)
class Level:
    """A low-rank pair and kept channels, in place of a weight.

    Attributes:
        rank: of the pair.
        channels: kept input channels, (k,) int32.
        sparse: their values, (out x k) float32.
        error: weighted squared error of the outputs.
    """

    rank: int
    channels: np.ndarray
    sparse: np.ndarray
    error: float


@dataclass(frozen=True)
class Levels:
    """All levels of one weight. Their low-rank pairs are the leading rows and columns of one.

    Attributes:
        down: (largest rank x in) float32.
        up: (out x largest rank) float32.
        by_rank: the levels.
        scale: the weighted squared size of the outputs, of which the errors are a part.
    """

    down: np.ndarray
    up: np.ndarray
    by_rank: dict[int, Level]
    scale: float

    def weight(self, level: Level) -> np.ndarray:
        """Return the weight (out x in) that a level applies, float32."""
        composed: np.ndarray = self.up[:, : level.rank] @ self.down[: level.rank]
        composed[:, level.channels] += level.sparse
        return composed


def possible_ranks(out_features: int, in_features: int, density: float, align: int) -> list[int]:
    """Return ranks with which a LOST layer has fewer parameters than the dense weight: multiples of 8, ascending.

    Of large matrices multiples of 16, 32 or more, so that they are no more than 32.
    """

    def smaller(rank: int) -> bool:
        kept = channel_count(in_features, density, rank, align)
        return rank * in_features + out_features * (rank + kept) < out_features * in_features

    ranks = [rank for rank in range(_STEP, min(out_features, in_features) + 1, _STEP) if smaller(rank)]
    while len(ranks) > _MOST_LEVELS:
        ranks = ranks[1::2]
    return ranks


def levels_of(
    weight: np.ndarray, ranks: Sequence[int], density: float, align: int, weighting: Weighting = UNWEIGHTED
) -> Levels:
    """Return what a weight becomes at each rank.

    Args:
        weight: (out x in) float64.
        ranks: ascending, at least one.
        density: share of input channels to keep.
        align: rank + channels is rounded up to a multiple of this.
        weighting: of errors.
    """
    weighting = with_ridge(weighting)
    down, up, energies = weighted_pair(weight, weighting, ranks[-1])
    scale = _size(weight, weighting)
    levels = {}
    for rank in ranks:
        rest = weight - up[:, :rank] @ down[:rank]
        count = channel_count(weight.shape[1], density, rank, align)
        channels, sparse, saved = keep_channels(rest, weighting, count)
        error = max(0.0, scale - float(energies[:rank].sum()) - saved)
        levels[rank] = Level(rank, channels, sparse.astype(np.float32), error)
    return Levels(down.astype(np.float32), up.astype(np.float32), levels, scale)


def _size(weight: np.ndarray, weighting: Weighting) -> float:
    read = weight if weighting.moment is None else weight @ weighting.moment
    rows = np.ones(len(weight)) if weighting.rows is None else weighting.rows
    return float(rows @ np.einsum("ij,ij->i", read, weight))
