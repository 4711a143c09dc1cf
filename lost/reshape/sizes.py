"""The sizes that an imported model's projections may have, with what each costs and loses."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lost.interop.from_hf import Imported
from lost.interop.from_hf.conversion import Weightings, for_each_projection
from lost.method.compress import Weighting
from lost.method.levels import Levels, levels_of, possible_ranks
from lost.projections import Projection
from lost.reshape.budget import Choice, Choices, Of, cost, resized, worthwhile


def sizes(
    imported: Imported,
    of: Of,
    density: float,
    weightings: Weightings,
    keep: bool,
    log: Callable[[str], None],
) -> tuple[Choices, Mapping[str, Levels]]:
    """Return the worthwhile sizes of each projection; to stay dense is always the largest.

    Args:
        imported: a dense model.
        of: what is counted.
        density: share of input channels that LOST layers keep.
        weightings: of the errors. Without gradients an error counts as a share of its layer's output.
        keep: whether the truncated weights of these sizes are returned too.
        log: receives progress messages.
    """
    choices: dict[str, list[Choice]] = {}
    kept: dict[str, Levels] = {}

    def measure(each: Projection, weight: np.ndarray, weighting: Weighting) -> tuple[Projection, Levels | None]:
        align = each.settings.align
        ranks = possible_ranks(each.out_features, each.in_features, density, align)
        return each, levels_of(weight, ranks, density, align, weighting) if ranks else None

    for each, levels in for_each_projection(
        imported, imported.config, weightings, measure, lambda blocks: log(f"what each rank loses in {blocks}")
    ):
        found = [Choice(None, cost(each, of), 0.0)]
        if levels:
            unit = 1.0 if weightings.row_gradients else max(levels.scale, 1e-30)
            found += [
                Choice(rank, cost(resized(each, rank, density), of), level.error / unit)
                for rank, level in levels.by_rank.items()
            ]
        choices[each.name] = worthwhile(found)
        if levels and keep:
            ranks = {choice.rank for choice in choices[each.name]}
            needed = {rank: level for rank, level in levels.by_rank.items() if rank in ranks}
            kept[each.name] = replace(levels, by_rank=needed)
    return choices, kept
