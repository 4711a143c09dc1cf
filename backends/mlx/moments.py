"""What the inputs of a model's layers look like, for a decomposition that is to be exact where it matters."""

from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx
import numpy as np

from lost.backends.mlx.arrays import to_array
from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.layers import Narrow
from lost.batches import Batch


def input_moments(engine: MlxEngine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each named projection, (in x in) float64."""
    modules = dict(engine.model.named_modules())
    layers, sums = {name: modules[name] for name in names}, {name: _Sum() for name in names}
    for name, layer in layers.items():
        layer.narrow = sums[name].watching(layer.narrow)  # of this one object; its class has another
    try:
        engine.evaluate(batches)
    finally:
        for layer in layers.values():
            del layer.narrow
    return {name: each.mean() for name, each in sums.items()}


class _Sum:
    """Summed in float32, the widest that Metal has."""

    def __init__(self) -> None:
        self._total, self._rows = mx.array(0.0), 0

    def watching(self, narrow: Callable[[mx.array], Narrow]) -> Callable[[mx.array], Narrow]:
        def watched(x: mx.array) -> Narrow:
            rows = x.flatten(0, -2).astype(mx.float32)
            self._total = self._total + rows.T @ rows
            mx.eval(self._total)  # else all inputs of all batches would wait for the end
            self._rows += len(rows)
            return narrow(x)

        return watched

    def mean(self) -> np.ndarray:
        return to_array(self._total).astype(np.float64) / self._rows
