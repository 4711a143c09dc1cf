"""The learning rate of each step."""

import math

from lost.config import OptimizerConfig, ScheduleConfig


def learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig, step: int) -> float:
    """Return the learning rate of update number `step`, counted from 1: warm-up reaches the peak at `warmup_steps`.

    cosine and linear fall from the peak to `min_lr_ratio` of it at the last step; constant stays; wsd (warm-up, stable,
    decay: Hu et al., arXiv 2404.06395) stays, then falls linearly over its last `decay_steps`.
    """
    peak, warmup = optimizer.lr, schedule.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if schedule.name == "constant":
        return peak
    start = warmup
    if schedule.name == "wsd":
        length = schedule.steps // 5 if schedule.decay_steps is None else schedule.decay_steps
        start = max(warmup, schedule.steps - length)
    if step <= start:
        return peak
    done = min(1.0, (step - start) / (schedule.steps - start))
    shape = 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1 - done
    return peak * (schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * shape)
