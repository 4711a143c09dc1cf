"""Values of a model that no training made, and an engine that holds them."""

from typing import Any

import numpy as np
from device import device_of

from lost.config import Config
from lost.engine import create_engine
from lost.model.parameters import parameter_table, projections


def random_values(config: Config, dtype: Any, seed: int = 2) -> dict[str, np.ndarray]:
    """Values of no special structure, norms included; channels and sparse entries at random places."""
    random = np.random.default_rng(seed)  # 2 puts nothing so near relu2's kink that differences step over it
    below = {
        f"{each.name}.{suffix}": own.below for each in projections(config) for suffix, own in each.tensors().items()
    }
    values = {}
    for name, row in parameter_table(config).items():
        if row.integer:
            values[name] = np.sort(random.choice(below[name], row.shape, replace=False)).astype(np.int32)
        else:
            values[name] = (random.standard_normal(row.shape) * 0.3 + name.endswith("norm.weight")).astype(dtype)
    return values


def engine_with(config: Config, values: dict[str, np.ndarray], backend: str) -> Any:
    """An engine of a backend, with values in float32."""
    engine = create_engine(config, backend, device_of(backend))
    engine.load(
        (name, value.astype(np.float32) if value.dtype != np.int32 else value) for name, value in values.items()
    )
    return engine
