"""A teacher in MLX: a model that only reads, none of it trained."""

import mlx.core as mx
from mlx.utils import tree_unflatten

from lost.backends.mlx.arrays import DTYPES, to_mlx
from lost.backends.mlx.model import Model
from lost.config import Config
from lost.data.batch import SoftTargets
from lost.model.parameters import index_limits, parameter_table, shapes_of
from lost.storage.arrays import NamedArrays, check_arrays

Teaching = tuple[mx.array, mx.array]
"""What a teacher predicts, as `taught_loss` takes it."""


class Teacher:
    """A model that says what it predicts.

    Args:
        config: its model and types.
        parameters: all of them.
    """

    def __init__(self, config: Config, parameters: NamedArrays) -> None:
        dtype = DTYPES[config.train.param_dtype]
        self._model, table = Model(config, DTYPES[config.train.compute_dtype], dtype), parameter_table(config)
        held: list[tuple[str, mx.array]] = []
        for name, array in check_arrays(parameters, shapes_of(table), index_limits(table)):
            held.append((name, to_mlx(array).astype(dtype if table[name].trained else mx.int32)))
            mx.eval(held[-1][1])
        self._model.update(tree_unflatten(held))

    def __call__(self, tokens: mx.array) -> Teaching:
        """Return what it predicts after tokens (b, s)."""
        states = self._model.model(tokens).flatten(0, 1)
        return states, self._model.head.astype(states.dtype)


def taught(soft: SoftTargets) -> Teaching:
    """Return what was kept of a teacher's predictions."""
    return mx.array(soft.ids).flatten(0, 1), mx.array(soft.log_probabilities).flatten(0, 1)
