"""What the inputs of a model's layers look like, for a decomposition that is to be exact where it matters."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lost.backends.torch.arrays import to_array
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.layers import Narrow
from lost.batches import Batch


def input_moments(engine: TorchEngine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each named projection, (in x in) float64."""
    layers: dict[str, Any] = {name: engine.model.get_submodule(name) for name in names}
    sums = {name: _Sum() for name in names}
    for name, layer in layers.items():
        layer.narrow = sums[name].watching(layer.narrow)  # of this one object; its class has another
    try:
        engine.evaluate(batches)
    finally:
        for layer in layers.values():
            del layer.narrow
    return {name: each.mean() for name, each in sums.items()}


class _Sum:
    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._rows = 0

    def watching(self, narrow: Callable[[Tensor], Narrow]) -> Callable[[Tensor], Narrow]:
        def watched(x: Tensor) -> Narrow:
            rows = x.detach().flatten(0, -2).float()
            product = rows.T @ rows
            product = product if product.device.type == "mps" else product.double()  # Apple's GPUs have no float64
            self._total = product if self._total is None else self._total.add_(product)
            self._rows += len(rows)
            return narrow(x)

        return watched

    def mean(self) -> np.ndarray:
        assert self._total is not None
        return to_array(self._total).astype(np.float64) / self._rows
