"""Second moments of layers' inputs: the backend's part of `lost.method.calibration`."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from lost.backends.torch.arrays import to_array
from lost.backends.torch.engine import TorchEngine
from lost.data.batch import Batch
from lost.engine import Engine
from lost.method.calibration import record_inputs


def input_moments(engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each named projection, (in, in) float64."""
    assert isinstance(engine, TorchEngine)
    layers = {name: engine.model.get_submodule(name) for name in names}
    return record_inputs(layers, lambda: engine.evaluate(batches), _Sum)


class _Sum:
    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._rows = 0

    def add(self, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()
        product = rows.T @ rows
        product = product if product.device.type == "mps" else product.double()  # Apple's GPUs have no float64
        self._total = product if self._total is None else self._total.add_(product)
        self._rows += len(rows)

    def mean(self) -> np.ndarray:
        assert self._total is not None
        return to_array(self._total).astype(np.float64) / self._rows
