"""Dense weights as those of adapters: how an adaptation begins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from lost.config import Config
from lost.model.adapted import adapters
from lost.projections.adapters import Adapter
from lost.storage.arrays import NamedArrays
from lost.utils.parallel import side_by_side

Measure = Callable[[str, Sequence[str]], Mapping[str, np.ndarray]]
"""Maps what adapters begin by (`Adapter.begins_by`) and names of layers to what is measured for each, float64."""


def adapting(config: Config, arrays: NamedArrays, measure: Measure) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of a model with adapters that computes what the one without them does.

    Args:
        config: with adapters.
        arrays: of `lost.model.adapted.base_config`; best block by block, as one at a time is measured and held.
        measure: of the run's own data.
    """
    layers = {f"{each.name}.weight": each for each in adapters(config)}
    for _, block in groupby(arrays, lambda array: ".".join(array[0].split(".")[:3])):
        held = [(layers.get(name), name, array) for name, array in block]
        yield from _block_adapting(held, config.train.seed, measure)


def _block_adapting(
    held: Sequence[tuple[Adapter | None, str, np.ndarray]], seed: int, measure: Measure
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of one block, whose layers are decomposed side by side."""
    inside = [layer for layer, _, _ in held if layer]
    measured: dict[str, np.ndarray] = {}
    for what in dict.fromkeys(layer.begins_by for layer in inside if layer.begins_by):
        measured |= measure(what, [layer.name for layer in inside if layer.begins_by == what])

    def begin(each: tuple[Adapter | None, str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        layer, name, array = each
        if layer is None:
            return [(name, array)]
        values = layer.adapting(array.astype(np.float64), seed, measured.get(layer.name))
        return [(f"{layer.name}.{suffix}", value) for suffix, value in values.items()]

    for values in side_by_side(begin, held):
        yield from values


def block_of(name: str) -> str:
    """Return, for example, model.layers.0 for model.layers.0.self_attn.q_proj."""
    return name.rsplit(".", 2)[0]
