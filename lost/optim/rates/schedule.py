"""Learning rate schedules: the rate as a share of its peak, step by step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from lost.config import OptimizerConfig, ScheduleConfig
from lost.config.registry import SCHEDULES, Registry


@dataclass(frozen=True)
class Schedule:
    """What a rate does after the warm-up.

    Args:
        share: maps the settings and an update's number to a share of the peak in [0, 1].
        falls_after: maps the settings to the last step at the peak, of a rate that stays there after the warm-up;
            None: it falls at once.
        reads: the settings that it reads beside the run's length and its warm-up, which all do.
    """

    share: Callable[[ScheduleConfig, int], float]
    falls_after: Callable[[ScheduleConfig], int] | None = None
    reads: frozenset[str] = frozenset({"min_lr_ratio"})


KINDS = cast(Registry[Schedule], SCHEDULES)


def learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig, step: int) -> float:
    """Return the learning rate of update number `step`, counted from 1: warm-up reaches the peak at `warmup_steps`."""
    if step <= schedule.warmup_steps:
        return optimizer.lr * step / schedule.warmup_steps
    return optimizer.lr * KINDS[schedule.name].share(schedule, step)


def agree_until(old: ScheduleConfig, new: ScheduleConfig, step: int) -> bool:
    """Whether two schedules have the same rates up to a step: in the warm-up, and at the peak after it.

    So a run that took so many steps under one of them is, to the bit, a run under the other.
    """
    if old.steps is None or new.steps is None or old.warmup_steps != new.warmup_steps:
        return False
    return step <= min(level_until(old), level_until(new))


def level_until(schedule: ScheduleConfig) -> int:
    """Return the last step before the rate falls from its peak; the last of all if it doesn't."""
    falls_after = KINDS[schedule.name].falls_after
    return falls_after(schedule) if falls_after else schedule.warmup_steps


def constant(schedule: ScheduleConfig, step: int) -> float:
    """Return 1: the rate stays at its peak."""
    return 1.0


def linear(schedule: ScheduleConfig, step: int) -> float:
    """Return a share that falls in a straight line to `min_lr_ratio` at the last step."""
    return _down_to(schedule, 1 - _done(schedule, step, schedule.warmup_steps))


def cosine(schedule: ScheduleConfig, step: int) -> float:
    """Return a share that falls along half a cosine to `min_lr_ratio` at the last step."""
    return _down_to(schedule, 0.5 * (1 + math.cos(math.pi * _done(schedule, step, schedule.warmup_steps))))


def wsd(schedule: ScheduleConfig, step: int) -> float:
    """Return a share that stays, then falls in a straight line over the last `decay_steps` (Hu et al., 2404.06395)."""
    start = _decay_start(schedule)
    return 1.0 if step <= start else _down_to(schedule, 1 - _done(schedule, step, start))


def _decay_start(schedule: ScheduleConfig) -> int:
    """Return the last step before wsd's decay."""
    length = schedule.total_steps // 5 if schedule.decay_steps is None else schedule.decay_steps
    return max(schedule.warmup_steps, schedule.total_steps - length)


def _done(schedule: ScheduleConfig, step: int, start: int) -> float:
    """Return how much of the way from a step to the last one is done."""
    return min(1.0, (step - start) / (schedule.total_steps - start))


def _down_to(schedule: ScheduleConfig, share: float) -> float:
    """Return a share of the way from the lowest rate to the peak, as a share of the peak."""
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * share


KINDS["cosine"] = Schedule(cosine)
KINDS["linear"] = Schedule(linear)
KINDS["constant"] = Schedule(constant, lambda schedule: schedule.total_steps, frozenset())
KINDS["wsd"] = Schedule(wsd, _decay_start, frozenset({"decay_steps", "decay_ratio", "min_lr_ratio"}))
