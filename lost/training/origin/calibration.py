"""What a run's own data shows of a model's layers, where adapters begin by it."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from lost.config import Config
from lost.data.dataset import Dataset
from lost.data.mixture import training_stream
from lost.engine import Engine, backend_module
from lost.interop.source import Source
from lost.planning.memory.measuring import measured_at_once, measuring_config
from lost.reshape.adapters import Measure

TOKENS = 1 << 14  # of the training text, from its first sample on


def measure_of(source: Source, config: Config, dataset: Dataset, backend: str, device: str) -> Measure:
    """Return what measures the second moments of layers' inputs, or the gradients for their weights, by a pass a call.

    Args:
        source: of the weights of the model that is adapted; it is loaded when it is needed.
        config: of the run that adapts it.
        dataset: what the run is trained on.
        backend: computes them.
        device: as the backend names it.
    """
    length, size, module = config.data.seq_len, measured_at_once(config), backend_module(backend)

    @cache
    def engine() -> Engine:
        made = module.create(measuring_config(config), device)
        made.load(source.parameters())
        return made

    def measure(what: str, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        stream, count = training_stream(dataset, length, config.train.seed), -(-TOKENS // length)
        batches = (stream.batch(first, min(size, count - first)) for first in range(0, count, size))
        if what == "inputs":
            return module.input_moments(engine(), batches, names)
        found = module.weight_gradients(engine(), batches, names)
        return {name: each.astype(np.float64) for name, each in found.items()}

    return measure
