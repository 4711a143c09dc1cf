"""The length of a run in steps, from what a user thinks in: tokens, epochs, tokens a parameter; and shares of it."""

import math

from lost.config import Config
from lost.config.schedule import ALTERNATIVES
from lost.data.dataset import Dataset
from lost.data.mixture import training_stream
from lost.errors import ConfigError
from lost.planning.budget import budget
from lost.utils.wording import counted

_MOST = 2**53


def with_steps(config: Config, dataset: Dataset | None = None) -> Config:
    """Return the configuration with its length, its warm-up and its decay in steps.

    Args:
        config: its vocabulary known.
        dataset: what `schedule.epochs` counts.

    Raises:
        ConfigError: epochs of a mixture, or of no data; or phases that don't fit the run.
    """
    schedule = config.schedule
    steps = schedule.steps or _steps(config, dataset)
    if steps >= _MOST:
        raise ConfigError(f"schedule: a run of {steps:.1e} steps is longer than any; expected fewer than {_MOST:.1e}")
    warm_up, decay = schedule.warmup_steps, schedule.decay_steps
    if schedule.warmup_ratio is not None:
        warm_up = round(schedule.warmup_ratio * steps)
    if schedule.decay_ratio is not None:
        decay = min(round(schedule.decay_ratio * steps), steps - warm_up)
    if warm_up + (decay or 0) > steps:
        raise ConfigError(
            f"schedule: the run comes to {counted(steps, 'step')}, and warmup_steps = {warm_up}"
            + (f" with decay_steps = {decay}" if decay else "")
            + " are more; expected them within it; lower them, or say them as shares (warmup_ratio, decay_ratio)"
        )
    open_ = {key: None for keys in ALTERNATIVES for key in keys}
    return config.replace("schedule", **{**open_, "steps": steps, "warmup_steps": warm_up, "decay_steps": decay})


def _steps(config: Config, dataset: Dataset | None) -> int:
    """Return the steps of a run whose length is said otherwise; each is of whole batches."""
    schedule, batch = config.schedule, config.train.batch_size
    a_step = batch * config.data.seq_len
    if schedule.tokens:
        return -(-schedule.tokens // a_step)
    if schedule.tokens_per_parameter:
        return math.ceil(schedule.tokens_per_parameter * budget(config).parameters / a_step)
    if dataset is None:
        return schedule.total_steps  # which raises the error
    epochs = training_stream(dataset, config.data.seq_len, config.train.seed).epochs(batch)
    if len(epochs) > 1:
        raise ConfigError(
            f"schedule.epochs = {schedule.epochs}: the data is a mixture of {len(epochs)} sets, each with epochs of "
            "its own; expected one set; set schedule.tokens"
        )
    assert schedule.epochs
    steps = schedule.epochs / epochs[0]
    return max(1, math.ceil(steps * (1 - 1e-12)))  # what is whole isn't rounded up for its last bit
