"""A short trial of a configuration: how many tokens a second it trains on this machine."""

import statistics
import time

from lost.bench.compare import random_batches, random_parameters
from lost.config import Config
from lost.engine import backend_module

_STEPS, _SECONDS = 20, 10.0  # timed: as many steps, or as many as are done in that time
_MICRO_BATCHES = 4  # of a step: more of them take as long each


def tokens_per_second(config: Config, backend: str, device: str) -> float:
    """Return the median over some steps on random tokens, from random weights; two are taken before, untimed.

    Args:
        config: its vocabulary and its micro-batch known.
        backend: its name.
        device: resolved.
    """
    train = config.train
    config = config.replace("train", batch_size=min(train.batch_size, _MICRO_BATCHES * train.micro_batch))
    engine = backend_module(backend).create(config, device)
    engine.load(random_parameters(config))
    batches = list(random_batches(config))
    predictions = sum(batch.predictions for batch in batches)
    times: list[float] = []
    for number in range(2 + _STEPS):
        began = time.perf_counter()
        engine.step(batches, predictions, 1e-5).wait()
        times += [time.perf_counter() - began] if number > 1 else []
        if sum(times) > _SECONDS:
            break
    return predictions / statistics.median(times)
