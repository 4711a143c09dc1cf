"""A teacher in MLX: a model that only reads, none of it trained."""

import mlx.core as mx
from mlx.utils import tree_unflatten

from lost.backends.mlx.arrays import DTYPES, to_mlx
from lost.backends.mlx.kernels.loss import at_once, chunks, log_softmax
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
            held.append((name, to_mlx(array).astype(mx.int32 if table[name].integer else dtype)))
            mx.eval(held[-1][1])
        self._model.update(tree_unflatten(held))

    def __call__(self, tokens: mx.array) -> Teaching:
        """Return what it predicts after tokens (b, s)."""
        states = self._model.model(tokens).flatten(0, 1)
        return states, self._model.head.astype(states.dtype)


def taught(soft: SoftTargets) -> Teaching:
    """Return what was kept of a teacher's predictions."""
    return mx.array(soft.ids).flatten(0, 1), mx.array(soft.log_probabilities).flatten(0, 1)


def likeliest(states: mx.array, head: mx.array, top_k: int, temperature: float) -> tuple[mx.array, mx.array]:
    """Return the likeliest entries of n predictions, in any order: ids, and log-probabilities, (n, top_k).

    Args:
        states: (n, h).
        head: (vocab, h), of the same type.
        top_k: how many.
        temperature: that logits are divided by.
    """
    found: list[tuple[mx.array, mx.array]] = []
    for rows in chunks(len(states), len(head), at_once()):
        scores = log_softmax((states[rows] @ head.T).astype(mx.float32) / temperature)
        ids = mx.argpartition(-scores, kth=top_k - 1, axis=-1)[:, :top_k]
        found.append((ids, mx.take_along_axis(scores, ids, axis=-1)))
        mx.eval(found[-1])  # never the logits of all
    return mx.concatenate([ids for ids, _ in found]), mx.concatenate([kept for _, kept in found])
