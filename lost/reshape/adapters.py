"""Dense weights as those of adapters: how an adaptation begins."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lost.config import Config
from lost.model.adapted import adapters
from lost.storage.arrays import NamedArrays

Measure = Callable[[str, Sequence[str]], Mapping[str, np.ndarray]]
"""Maps what adapters begin by (`Adapter.begins_by`) and names of layers to what is measured for each, float64."""


def adapting(config: Config, arrays: NamedArrays, measure: Measure) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of a model with adapters that computes what the one without them does.

    Args:
        config: with adapters.
        arrays: of `lost.model.adapted.base_config`; best block by block, as what kinds begin by is measured for one at
            a time.
        measure: of the run's own data.
    """
    layers = {f"{each.name}.weight": each for each in adapters(config)}
    found: dict[str, np.ndarray] = {}
    for name, array in arrays:
        if name not in layers:
            yield name, array
            continue
        layer = layers[name]
        if layer.begins_by and layer.name not in found:
            block = block_of(layer.name)
            alike = (each.name for each in layers.values() if each.begins_by == layer.begins_by)
            found = {owner: each for owner, each in found.items() if block_of(owner) == block}
            found |= measure(layer.begins_by, [each for each in alike if block_of(each) == block])
        measured = found[layer.name] if layer.begins_by else None
        for suffix, value in layer.adapting(array.astype(np.float64), config.train.seed, measured).items():
            yield f"{layer.name}.{suffix}", value


def block_of(name: str) -> str:
    """Return, for example, model.layers.0 for model.layers.0.self_attn.q_proj."""
    return name.rsplit(".", 2)[0]
