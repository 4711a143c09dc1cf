"""Initial weights: drawn and decomposed in numpy float64, yielded one by one."""

from collections.abc import Iterator

import numpy as np

from lost.config import Config
from lost.errors import ConfigError
from lost.model.adapted import adapters
from lost.model.parameters import layer_projections, parameter_table, projections
from lost.projections import Projection
from lost.utils.parallel import side_by_side
from lost.utils.randomness import normal

_MULTIPLIED = (("q", "k"), ("v", "o"), ("gate", "up"), ("gate", "down"), ("up", "down"))


def check_trains(config: Config) -> None:
    """Refuse random weights with which a model would never learn.

    Each of two layers whose outputs a block multiplies, or of which one reads the other's, has a gradient in
    proportion to what the other one gives. If both give zero, they always will.

    Adapters have nothing to adapt here, and would be left alone with random weights.

    Raises:
        ConfigError: there are such layers.
    """
    if adapting := adapters(config):
        kind = adapting[0].settings.kind
        raise ConfigError(
            f"projection.kind = {kind}, for {adapting[0].name}: it adapts a trained model, and a new run begins with "
            "random weights; expected the model to adapt; name it with --init-from, or choose another kind"
        )
    for number in range(config.model.num_hidden_layers):
        layers = {
            each.name.rpartition(".")[2].removesuffix("_proj"): each for each in layer_projections(config, number)
        }
        for one, other in _MULTIPLIED:
            if layers[one].starts_at_zero and layers[other].starts_at_zero:
                raise ConfigError(
                    f"projection.start = zero, for both {layers[one].name} and {layers[other].name}: the gradient of "
                    "each is a multiple of what the other one gives, so neither would ever be trained; expected a zero "
                    "start for one of them; leave projection.start out, and set projection.overrides to "
                    "{'*.o_proj': {start: zero}, '*.down_proj': {start: zero}}"
                )


def initial_values(config: Config, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, value): float32, int32 for channel indices.

    Values depend on the seed and each parameter's name alone. Decompositions run concurrently, and only a few are held
    at once, so that peak memory stays near the size of the model.

    Args:
        config: the run, its vocabulary known.
        rank: this process, of several that share the work.
        world_size: their number.
    """
    seed, std = config.train.seed, config.model.initializer_range

    def compute(projection: Projection) -> list[tuple[str, np.ndarray]]:
        values = projection.initial(seed, std)
        return [(f"{projection.name}.{suffix}", _stored(value)) for suffix, value in values.items()]

    layers = projections(config)
    covered = {f"{each.name}.{suffix}" for each in layers for suffix in each.tensors()}
    others = [parameter for name, parameter in parameter_table(config).items() if name not in covered]
    for parameter in others[rank::world_size]:
        name, is_norm = parameter.name, len(parameter.shape) == 1
        yield name, _stored(np.ones(parameter.shape) if is_norm else normal(seed, name, parameter.shape, std))
    for values in side_by_side(compute, layers[rank::world_size], world_size):
        yield from values


def _stored(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value if value.dtype == np.int32 else value.astype(np.float32))
