"""State of a run beside its arrays: progress, and the origin of its initial weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from lost.config import EarlyStop
from lost.config.fields import Finite, Natural
from lost.optim.gradients.noise_scale import GradientNoise
from lost.optim.gradients.skip_step import GuardState


@dataclass(frozen=True)
class Origin:
    """Origin of a run's initial weights.

    Attributes:
        path: of the checkpoint or folder, as it was then; of an average, all of them.
        step: of the run that it belongs to; None: no run's.
        fingerprint: SHA-256 of the arrays.
        moments: whether the optimizer's moments came along: a branch.
        before: of that run's initial weights; None: they were drawn, or it isn't known.
        data: fingerprint of the data that it was trained on; empty: unknown.
        data_path: where that stood.
        updates: that the moments are of, where steps are counted anew, as a branch on other data does; else 0.
        parts: what was averaged, each with its share; none: it is no average.
        share: of the average that it is a part of.
        omitted: how many generations between it and `before` aren't kept (`lost.checkpoint.lineage`).
    """

    path: str
    step: int | None
    fingerprint: str
    moments: bool = False
    before: "Origin | None" = None
    data: str = ""
    data_path: str = ""
    updates: Natural = 0
    parts: "tuple[Origin, ...]" = ()
    share: Finite = 1.0
    omitted: Natural = 0


@dataclass(frozen=True)
class BestLoss:
    """The best of the validations that `train.early_stop` has judged.

    Attributes:
        loss: mean negative log-likelihood in nats; None: none was finite.
        step: of that validation.
        since: validations in a row since then, none of them better.
    """

    loss: Finite | None = None
    step: Natural = 0
    since: Natural = 0

    def after(self, loss: float | None, step: int, rule: EarlyStop) -> "BestLoss":
        """Return what another validation makes of it; None: its loss isn't finite."""
        if loss is not None and (self.loss is None or loss < self.loss - rule.min_delta):
            return BestLoss(loss, step)
        return replace(self, since=self.since + 1)


@dataclass(frozen=True)
class TrainState:
    """Progress of a run.

    Attributes:
        step: optimizer steps done.
        samples: samples consumed, the position in the data.
        tokens: tokens trained on.
        seconds: time spent training.
        data: fingerprint of the prepared data.
        validation_loss: mean negative log-likelihood in nats at this step, if it was measured.
        guard: what was skipped, and what is usual.
        origin: of the initial weights; None: they were drawn.
        threads: that computed the last part of it on a CPU; None: unknown, or it was another device.
        best: what early stopping goes by; None: there is none, or it has judged nothing yet.
        noise: of gradients; None: it wasn't measured.
        teacher: the identity of what the run learns from beside its data; None: nothing.
    """

    step: Natural = 0
    samples: Natural = 0
    tokens: Natural = 0
    seconds: Finite = 0.0
    data: str = ""
    validation_loss: float | None = None
    guard: GuardState = field(default_factory=GuardState)
    origin: Origin | None = None
    threads: int | None = None
    best: BestLoss | None = None
    noise: GradientNoise | None = None
    teacher: str | None = None

    @staticmethod
    def parse(fields: Mapping[str, Any]) -> "TrainState":
        """Return the state that fields of JSON say.

        Raises:
            ValueError: they are unknown, of another type, or out of range, alone or beside each other.
        """
        state = _parser().validate_python(fields)
        if (skipped := state.guard.skipped) > state.step:
            raise ValueError(f"guard.skipped = {skipped}, at step {state.step}; expected no more")
        if state.guard.in_a_row > skipped:
            raise ValueError(f"guard.in_a_row = {state.guard.in_a_row}, of guard.skipped = {skipped}; expected no more")
        return state

    def stops_early(self, rule: EarlyStop | None) -> bool:
        """Whether the run's patience is at its end."""
        return rule is not None and self.best is not None and self.best.since >= rule.patience

    @property
    def updates(self) -> int:
        """Optimizer steps that changed the weights, and that the moments are of."""
        return self.updates_here + (self.origin.updates if self.origin else 0)

    @property
    def updates_here(self) -> int:
        """Those among them since step 0."""
        return self.step - self.guard.skipped

    @property
    def has_moments(self) -> bool:
        """Whether the optimizer has a state by now."""
        return self.step > 0 or self.updates > 0


@cache
def _parser() -> "TypeAdapter[TrainState]":
    return TypeAdapter(TrainState)
