"""Dense weights as those of adapters: how an adaptation begins."""

from collections.abc import Iterator

import numpy as np

from lost.config import Config
from lost.model.adapted import adapters
from lost.storage.arrays import NamedArrays


def adapting(config: Config, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of a model with adapters that computes what the one without them does.

    Args:
        config: with adapters.
        arrays: of `lost.model.adapted.base_config`, in any order.
    """
    layers = {f"{each.name}.weight": each for each in adapters(config)}
    for name, array in arrays:
        if name not in layers:
            yield name, array
            continue
        layer = layers[name]
        for suffix, value in layer.adapting(array.astype(np.float64), config.train.seed).items():
            yield f"{layer.name}.{suffix}", value
