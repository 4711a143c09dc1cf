"""The type of computation of a run that leaves it to this machine (`train.dtype: auto`)."""

import gc
import time
from collections.abc import Callable
from statistics import median

from lost.bench.compare import random_batches, random_parameters
from lost.config import Config
from lost.engine import backend_module
from lost.planning.micro_batch import with_micro_batch
from lost.planning.room import fits

TYPES = ("float32", "bfloat16")
_STEPS, _UNTIMED = 10, 2  # of each type; the first ones allocate and compile
_WORTH = 1.05  # how much faster bfloat16 must be for what it rounds
_HOPELESS = 2.0  # so many times slower, a type is given up
_TOKENS = 1 << 14  # at once on an accelerator; a CPU gets one sequence, and computes others as fast


def with_dtype(config: Config, backend: str, device: str, room: int, say: Callable[[str], None]) -> Config:
    """Return the configuration with the faster type in place of `auto`, by steps of training on random tokens.

    Args:
        config: its vocabulary known.
        backend: torch or mlx.
        device: as the backend names it.
        room: the memory in bytes that a run may take there.
        say: receives what is measured, and what came of it.

    Returns:
        Where only one type fits, with that; with bfloat16 where weights are in it.
    """
    types = TYPES if config.train.param_dtype == "float32" else TYPES[1:]
    typed = {dtype: with_micro_batch(config.replace("train", dtype=dtype), backend, device, room) for dtype in types}
    fitting = [dtype for dtype, each in typed.items() if fits(each, backend, device, room, 1, each.train.micro_batch)]
    if len(fitting) < 2:
        return config.replace("train", dtype=fitting[0] if fitting else "bfloat16")
    say(f"train.dtype = auto: measuring {_STEPS} steps in {' and in '.join(TYPES)}")
    size = 1 if device == "cpu" else max(1, _TOKENS // config.data.seq_len)
    size = min(size, *(each.train.micro_batch for each in typed.values()))
    seconds: dict[str, float] = {}
    for dtype, each in typed.items():
        seconds[dtype] = _seconds(each, backend, device, size, _HOPELESS * seconds.get(TYPES[0], float("inf")))
        gc.collect()  # blocks that PyTorch compiled refer to themselves, and on an accelerator nothing of them may stay
    chosen = "bfloat16" if seconds["bfloat16"] * _WORTH < seconds["float32"] else "float32"
    found = ", ".join(f"{dtype} {value * 1e3:.3g} ms" for dtype, value in seconds.items())
    say(f"train.dtype = auto: {chosen} (a step of {size} x {config.data.seq_len} tokens: {found})")
    return config.replace("train", dtype=chosen)


def _seconds(config: Config, backend: str, device: str, size: int, limit: float) -> float:
    """Return the median seconds of a step with so many sequences; the first that is counted, if it is over a limit."""
    config = config.replace("train", batch_size=size, micro_batch_size=size)
    engine = backend_module(backend).create(config, device)
    engine.load(random_parameters(config))
    batches, times = list(random_batches(config)), []
    for _ in range(_STEPS):
        began = time.perf_counter()
        engine.step(batches, size * config.data.seq_len, 1e-5).wait()
        times.append(time.perf_counter() - began)
        if len(times) == _UNTIMED and times[-1] > limit:
            return times[-1]
    return median(times[_UNTIMED:])
