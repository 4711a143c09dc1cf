"""A short trial of a configuration: how many tokens a second it trains on this machine."""

import statistics
import time

from lost.bench.compare import random_batches, random_parameters
from lost.config import Config
from lost.engine import backend_module

_STEPS, _SECONDS = 20, 10.0  # timed: as many steps of a length, or as many as are done in that time
_FEW, _MANY = 1, 4  # micro-batches of steps that are timed: what more of them take tells them from the update


def tokens_per_second(config: Config, backend: str, device: str) -> float:
    """Return what the medians over some steps on random tokens come to, from random weights; two are before, untimed.

    Of a step of many micro-batches, shorter ones are timed, in turns: each more of them takes as long.

    Args:
        config: its vocabulary and its micro-batch known.
        backend: its name.
        device: resolved.
    """
    train = config.train
    whole = train.batch_size // train.micro_batch
    lengths = (whole,) if whole <= _MANY else (_FEW, _MANY)
    config = config.replace("train", batch_size=lengths[-1] * train.micro_batch)
    engine = backend_module(backend).create(config, device)
    engine.load(random_parameters(config))
    batches = list(random_batches(config))
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for number in range(2 + _STEPS):
        for length in lengths:
            began = time.perf_counter()
            engine.step(batches[:length], length * batches[0].predictions, 1e-5).wait()
            times[length] += [time.perf_counter() - began] if number > 1 else []
        if sum(map(sum, times.values())) > _SECONDS:
            break
    few, many = (statistics.median(times[length]) for length in (lengths[0], lengths[-1]))
    another = max(0.0, many - few) / (_MANY - _FEW)
    return whole * batches[0].predictions / (many + (whole - lengths[-1]) * another)
