"""What a text shows of a model: moments of layers' inputs, squared gradients, and what it says of the next token."""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from lost.backends.mlx.arrays import to_array
from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels.loss import head_loss, log_softmax
from lost.data.batch import Batch
from lost.engine import Engine
from lost.method.calibration import record_inputs


def input_moments(engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each named projection, (in, in) float64."""
    assert isinstance(engine, MlxEngine)
    modules = dict(engine.model.named_modules())
    return record_inputs({name: modules[name] for name in names}, lambda: engine.evaluate(batches), _Sum)


def weight_gradients(engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the gradient of the mean loss for the weight of each named dense projection, (out, in) float32."""
    assert isinstance(engine, MlxEngine)
    model, z_loss = engine.model, engine._config.train.z_loss
    modules, totals, count = dict(model.named_modules()), None, 0
    model.freeze()
    for name in names:
        modules[name].unfreeze(keys=["weight"], recurse=False)

    def summed(tokens: mx.array, targets: mx.array, mask: mx.array) -> mx.array:
        return head_loss(model.model(tokens).flatten(0, 1), model.head, targets, mask, z_loss, trains_head=False)

    gradient = nn.value_and_grad(model, summed)
    for batch in batches:
        _, found = gradient(*engine._on_device(batch))
        totals = found if totals is None else tree_map(mx.add, totals, found)
        mx.eval(totals)
        count += batch.predictions
    flat = dict(tree_flatten(totals))
    return {name: to_array(flat[f"{name}.weight"].astype(mx.float32)) / count for name in names}


def squared_gradients(engine: Engine, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Return, for each trained parameter, the mean over batches of their mean loss's squared gradient, float32."""
    assert isinstance(engine, MlxEngine)
    totals: dict[str, mx.array] = {}
    for number, batch in enumerate(batches, 1):
        squares = {name: each.astype(mx.float32).square() for name, each in engine.gradients(batch).items()}
        for name, each in squares.items():
            before = totals.get(name, mx.zeros_like(each))
            totals[name] = before + (each - before) / number  # moves the mean
        mx.eval(totals)
    return {name: to_array(each) for name, each in totals.items()}


def log_probabilities(engine: Engine, tokens: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of entries (b, s, n) after each of tokens (b, s), float32."""
    assert isinstance(engine, MlxEngine)
    scores = log_softmax(engine.model(mx.array(tokens.astype(np.int32))).astype(mx.float32))
    return to_array(mx.take_along_axis(scores, mx.array(entries), axis=-1))


class _Sum:
    """In float32, the widest that Metal has."""

    def __init__(self) -> None:
        self._total, self._rows = mx.array(0.0), 0

    def add(self, x: mx.array) -> None:
        rows = x.flatten(0, -2).astype(mx.float32)
        self._total = self._total + rows.T @ rows
        mx.eval(self._total)  # else all inputs of all batches would wait for the end
        self._rows += len(rows)

    def mean(self) -> np.ndarray:
        return to_array(self._total).astype(np.float64) / self._rows
