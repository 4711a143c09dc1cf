"""The section `schedule`: how long a run is, and how its learning rate moves."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from lost.config.fields import Count, Natural, Positive, Section, Share
from lost.config.registry import SCHEDULES
from lost.errors import ConfigError

LENGTHS = ("steps", "tokens", "epochs", "tokens_per_parameter")
ALTERNATIVES = (LENGTHS, ("warmup_steps", "warmup_ratio"), ("decay_steps", "decay_ratio"))  # ways to say one thing


def others(key: str) -> list[str]:
    """Return the keys that say the same as a key otherwise."""
    return [other for keys in ALTERNATIVES if key in keys for other in keys if other != key]


class ScheduleConfig(Section):
    """The learning rate's schedule."""

    name: Annotated[str, AfterValidator(SCHEDULES.check)] = "cosine"
    """How the rate falls from its peak to `min_lr_ratio` of it: cosine; linear; constant, not at all; wsd
    (warmup-stable-decay, arXiv 2404.06395), in a straight line at the end. With wsd and constant a longer run begins
    like a shorter one."""
    steps: Count | None = None
    """Optimizer steps of the whole run. One of this and the next three must be set; a run keeps the steps
    that it comes to."""
    tokens: Count | None = None
    """Length of the run in tokens: whole steps of `train.batch_size` x `data.seq_len`, at least so many."""
    epochs: Annotated[Positive, Field(le=1e6)] | None = None
    """Length of the run in passes over the training text, which must be one set."""
    tokens_per_parameter: Annotated[Positive, Field(le=1e6)] | None = None
    """Length of the run in tokens for each parameter, embedding and head included. About 20 use a dense model's compute
    best (arXiv 2203.15556); more make a better model of the same size."""
    warmup_steps: Natural = 0
    """Steps in which the rate rises from 0 to its peak; a tenth of the run is usual."""
    warmup_ratio: Share | None = None
    """The same as a share of the run, in place of `warmup_steps`."""
    decay_steps: Natural | None = None
    """wsd only: length of the final decay; null: a fifth of the run."""
    decay_ratio: Share | None = None
    """The same as a share of the run, in place of `decay_steps`."""
    min_lr_ratio: Share = 0.1
    """The last step's rate as a share of the peak."""

    @model_validator(mode="after")
    def _phases_fit(self) -> "ScheduleConfig":
        for key in ("decay_steps", "decay_ratio"):
            if getattr(self, key) is not None and self.name in SCHEDULES and key not in SCHEDULES[self.name].reads:
                readers = " and ".join(name for name, kind in SCHEDULES.items() if key in kind.reads)
                raise ValueError(f"{key} belongs to the schedule {readers}, not to {self.name}; remove it")
        if self.steps and (taken := self.warmup_steps + (self.decay_steps or 0)) > self.steps:
            what = "warmup_steps + decay_steps" if self.decay_steps else "warmup_steps"
            raise ValueError(f"{what} = {taken} is more than steps = {self.steps}; lower it, or train longer")
        if (share := (self.warmup_ratio or 0) + (self.decay_ratio or 0)) > 1:
            raise ValueError(f"warmup_ratio + decay_ratio = {share:g}: together they are more than the run; lower one")
        return self

    @model_validator(mode="after")
    def _each_is_said_once(self) -> "ScheduleConfig":
        said = {key: value for keys in ALTERNATIVES for key in keys if (value := getattr(self, key)) is not None}
        if not self.warmup_steps:
            del said["warmup_steps"]  # its default
        for keys in ALTERNATIVES:
            given = [f"{key} = {said[key]}" for key in keys if key in said]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)}: expected one of them; remove the others")
        if not said.keys() & {*LENGTHS}:
            raise ValueError(f"nothing says how long the run is; expected one of {', '.join(LENGTHS)}; add it")
        return self

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the whole run.

        Raises:
            ConfigError: they depend on what isn't known yet (`lost.planning.horizon`).
        """
        if self.steps is None:
            key = next(key for key in LENGTHS if getattr(self, key))
            raise ConfigError(
                f"schedule.{key} = {getattr(self, key)}: how many steps that are depends on the model and the data, "
                "and the data isn't named; name it with --data, or set schedule.steps"
            )
        return self.steps
