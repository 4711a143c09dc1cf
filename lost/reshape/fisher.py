"""What errors of layers' outputs cost: squared gradients on a calibration text, as in FWSVD (arXiv 2207.00112)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import backend_module, create_engine
from lost.storage.arrays import NamedArrays

_MOST_SAMPLES = 200


def gradient_squares_by_row(
    config: Config, parameters: NamedArrays, batches: Iterable[Batch], names: Sequence[str], backend: str, device: str
) -> Mapping[str, np.ndarray]:
    """Return the mean squared gradients of each weight, added up by rows, (out,) float64.

    Args:
        config: of the dense model.
        parameters: its.
        batches: one sample each.
        names: of weights.
        backend: to compute with.
        device: as the backend names it.
    """
    engine = create_engine(config.replace("train", compile=False, param_dtype="float32"), backend, device)
    engine.load(parameters)
    squares = backend_module(engine.backend).squared_gradients(engine, islice(batches, _MOST_SAMPLES))
    return {name: squares[f"{name}.weight"].astype(np.float64).sum(axis=1) for name in names}
