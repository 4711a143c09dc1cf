"""Dense weights as those of adapters: how an adaptation begins."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lost.config import Config
from lost.model.adapted import adapters
from lost.storage.arrays import NamedArrays

InputMoments = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def adapting(config: Config, arrays: NamedArrays, input_moments: InputMoments) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of a model with adapters that computes what the one without them does.

    Args:
        config: with adapters.
        arrays: of `lost.model.adapted.base_config`; best block by block, as what is read is measured for one at a time.
        input_moments: maps names of layers to the second moments of what they read, (in, in) float64.
    """
    layers = {f"{each.name}.weight": each for each in adapters(config)}
    moments: Mapping[str, np.ndarray] = {}
    for name, array in arrays:
        if name not in layers:
            yield name, array
            continue
        layer = layers[name]
        if layer.reads_inputs and layer.name not in moments:
            block = _block(layer.name)
            beside = [each.name for each in layers.values() if each.reads_inputs and _block(each.name) == block]
            moments = input_moments(beside)
        moment = moments[layer.name] if layer.reads_inputs else None
        for suffix, value in layer.adapting(array.astype(np.float64), config.train.seed, moment).items():
            yield f"{layer.name}.{suffix}", value


def _block(name: str) -> str:
    """Return, for example, model.layers.0 for model.layers.0.self_attn.q_proj."""
    return name.rsplit(".", 2)[0]
