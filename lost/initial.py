"""First values of every parameter, drawn and decomposed in numpy float64 and handed out one by one."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from lost.config import Config
from lost.parameters import parameter_table, projections
from lost.projections import Projection
from lost.randomness import normal

_MOST_WORKERS = 8  # each holds a weight, its Gram matrix and their products in float64


def initial_values(config: Config, maker: int = 0, makers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, value): float32, int32 for channel numbers.

    Values depend on the seed and each parameter's name alone. Decompositions run side by side, one thread of BLAS
    each (benchmarks/eigenvectors.py), and only a few are held at once, so that the peak stays near the size of the
    model that takes them.

    Args:
        config: the run, its vocabulary known.
        maker: of several processes that share the work, which one this is.
        makers: how many they are.
    """
    seed, std = config.train.seed, config.model.initializer_range

    def compute(projection: Projection) -> list[tuple[str, np.ndarray]]:
        values = projection.initial(seed, std)
        return [(f"{projection.name}.{suffix}", _stored(value)) for suffix, value in values.items()]

    workers = max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // makers))
    inside = projections(config)
    waiting = deque(inside[maker::makers])
    covered = {f"{each.name}.{suffix}" for each in inside for suffix in each.tensors()}
    others = [parameter for name, parameter in parameter_table(config).items() if name not in covered]
    for parameter in others[maker::makers]:
        name, is_norm = parameter.name, len(parameter.shape) == 1
        yield name, _stored(np.ones(parameter.shape) if is_norm else normal(seed, name, parameter.shape, std))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        running: deque[Future[list[tuple[str, np.ndarray]]]] = deque()
        while waiting or running:
            while waiting and len(running) <= workers:
                running.append(pool.submit(compute, waiting.popleft()))
            yield from running.popleft().result()


def _stored(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value if value.dtype == np.int32 else value.astype(np.float32))
