"""What both backends' memory is counted from."""

import math
from collections.abc import Mapping, Sequence

from lost.config import Config
from lost.model.parameters import parameter_table, projections
from lost.optim import optimizer_of
from lost.optim.muon import at_once
from lost.projections import Projection


def saved_of_norms(parts: Sequence[Projection], hidden: int) -> int:
    """Count the elements per token of both norms' outputs in a block that projections save."""
    return sum(hidden for group in (parts[:3], parts[4:6]) if any(each.keeps_input for each in group))


def recast(config: Config, backend: str) -> int:
    """Count the entries of projections that are stored in another type than is computed with, where casts are kept."""
    rows = parameter_table(config)
    inside = [each for each in projections(config) if backend not in each.recasts]
    held = [rows[f"{each.name}.{suffix}"] for each in inside for suffix in each.tensors()]
    return sum(row.size for row in held if not row.integer and row.dtype != config.train.compute_dtype)


def largest_turn(config: Config, shards: int, fits: Mapping[str, tuple[float, float]]) -> int:
    """Count the bytes of the matrices that an optimizer orthogonalizes at a time, and of what it makes of them.

    Args:
        config: its vocabulary known.
        shards: workers that share them.
        fits: bytes beside a byte of a matrix in float32, and how many more where it is square, by the type of products.
    """
    plain, square = fits[config.optimizer.orthogonalize_dtype]
    turns = [
        min(-(-count // shards), at_once(shape, 1)) * 4 * math.prod(shape) * (plain + square * min(shape) / max(shape))
        for shape, count in optimizer_of(config).orthogonalized(parameter_table(config)).items()
    ]
    return int(max(turns, default=0))
