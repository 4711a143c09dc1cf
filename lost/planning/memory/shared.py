"""What both backends' memory is counted from."""

import math
from collections.abc import Mapping, Sequence

from lost.config import Config
from lost.model.parameters import parameter_table, projections
from lost.optim import KINDS
from lost.optim.muon import Muon, at_once, shapes_orthogonalized
from lost.projections import Projection


def saved_of_norms(parts: Sequence[Projection], hidden: int) -> int:
    """Count the elements per token of both norms' outputs in a block that projections save."""
    return sum(hidden for group in (parts[:3], parts[4:6]) if any(each.keeps_input for each in group))


def recast(config: Config, but: Sequence[str] = ()) -> int:
    """Count the entries of projections, `but` of some kinds, that are stored in another type than is computed with."""
    rows = parameter_table(config)
    inside = [each for each in projections(config) if each.settings.kind not in but]
    held = [rows[f"{each.name}.{suffix}"] for each in inside for suffix in each.tensors()]
    return sum(row.size for row in held if not row.integer and row.dtype != config.train.compute_dtype)


def largest_turn(config: Config, shards: int, fits: Mapping[str, tuple[float, float]]) -> int:
    """Count the bytes of the matrices that Muon orthogonalizes at a time, and of what it makes of them; else 0.

    Args:
        config: its vocabulary known.
        shards: workers that share them.
        fits: bytes beside a byte of a matrix in float32, and how many more where it is square, by the type of products.
    """
    settings = config.optimizer
    if not issubclass(KINDS[settings.name], Muon):
        return 0
    plain, square = fits[settings.orthogonalize_dtype]
    turns = [
        min(-(-count // shards), at_once(shape, 1)) * 4 * math.prod(shape) * (plain + square * min(shape) / max(shape))
        for shape, count in shapes_orthogonalized(parameter_table(config), settings.split_up).items()
    ]
    return int(max(turns, default=0))
