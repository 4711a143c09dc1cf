"""The loss of one model under other learning rate schedules: the annealing law (Tissue et al., arXiv 2408.11029).

    L = L0 + A S1^-a - C S2

S1 is the sum of all rates so far; S2 is how far the rate has fallen, summed over the steps since, each fall fading in
by a momentum: S2 = sum over i of m_i, m_i = f m_(i-1) + (rate_(i-1) - rate_i). The warm-up is left out of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar, nnls
from scipy.signal import lfilter

from lost.config import Config, OptimizerConfig, ScheduleConfig
from lost.errors import ConfigError, UserError
from lost.optim.schedule import learning_rate
from lost.planning.horizon import with_steps
from lost.scaling.family import check_same_text
from lost.scaling.runs import TrainedRun
from lost.training.run_dir import MUTABLE_KEYS, differences
from lost.utils.wording import counted

_LEAST = 6  # losses: the law has five constants
_EARLY = 10  # the first tenth of a run follows no law of its rates
_FADING = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)  # in the paper .999, of tens of thousands of steps
_POWERS = np.geomspace(0.02, 4, 60)
_LONGEST = 10_000_000
_KEPT = 2 / 3  # of a single run's losses: the others show the error
Array = np.ndarray


@dataclass(frozen=True)
class AnnealingLaw:
    """One set of constants; rates are the optimizer's own."""

    L0: float
    A: float
    a: float
    C: float
    f: float

    def loss(self, config: Config, step: int) -> float:
        """Return the loss in nats a token after a step of a run with this schedule and peak rate."""
        heat, falls = _areas(config, np.array([step]), self.f)
        return float(self.L0 + self.A * heat[0] ** -self.a - self.C * falls[0])


@dataclass(frozen=True)
class HeldOut:
    """A loss that a law of other losses foretold.

    Attributes:
        run: whose.
        step: of it.
        loss: measured.
        predicted: by the law of all other runs; of a single run, by that of its first two thirds.
    """

    run: TrainedRun
    step: int
    loss: float
    predicted: float

    @property
    def error(self) -> float:
        """The share of the loss by which the prediction was off."""
        return abs(self.predicted / self.loss - 1)


def annealing_law(runs: Sequence[TrainedRun]) -> tuple[AnnealingLaw, int, list[HeldOut]]:
    """Return the law of runs that differ in their schedules, the number of losses, and what it foretold of some.

    Raises:
        UserError: the runs differ in more, have too few validations, or none after their rate fell.
    """
    _check_one_model(runs)
    points = {run.folder: _points(run) for run in runs}
    law = _fit(runs, points)
    held_out = []
    for run in filter(lambda each: points[each.folder], runs):
        last = max(points[run.folder])
        others = [each for each in runs if each is not run]
        known = {each.folder: points[each.folder] for each in others}
        if len(runs) == 1:
            others, steps = [run], sorted(points[run.folder])
            known = {run.folder: {step: points[run.folder][step] for step in steps[: int(_KEPT * len(steps))]}}
        try:
            foretold = _fit(others, known).loss(run.config, last)
        except UserError:
            continue  # the others can't tell
        held_out.append(HeldOut(run, last, points[run.folder][last], foretold))
    return law, sum(map(len, points.values())), held_out


def rescheduled(run: TrainedRun, config: Config) -> Config:
    """Return a run's configuration with the schedule of another one, its length in steps.

    Raises:
        ConfigError: the length is in epochs, which the text would have to tell, or beyond all that is trained.
    """
    if config.schedule.epochs:
        raise ConfigError(
            f"schedule.epochs = {config.schedule.epochs}: the text isn't read here; expected a length in steps or "
            "tokens; set schedule.steps"
        )
    counted = with_steps(run.config.replace("schedule", **config.schedule.model_dump()))
    if counted.schedule.total_steps > _LONGEST:
        raise ConfigError(
            f"schedule.steps = {counted.schedule.total_steps:,}: the rates of so many steps aren't added up here; "
            f"expected at most {_LONGEST:,}; the law is of no use so far from what was trained"
        )
    return counted


def _check_one_model(runs: Sequence[TrainedRun]) -> None:
    check_same_text(runs)
    for run in runs[1:]:
        found = differences(runs[0].config, run.config)
        free = (*MUTABLE_KEYS, "train.seed")
        others = [text for key, text in found.items() if key not in free and not key.startswith(("schedule.", "track"))]
        if others:
            raise UserError(
                f"{run.folder} and {runs[0].folder} differ in {'; '.join(others)}: expected runs that differ in their "
                "schedules alone; leave out those that differ in more"
            )


def _points(run: TrainedRun) -> dict[int, float]:
    """Return a run's losses, by step, without its beginning, and without what stands beyond its end."""
    ends = run.config.schedule.total_steps
    begins = max(run.config.schedule.warmup_steps, ends // _EARLY)
    return {step: loss for step, loss in sorted(run.losses.items()) if begins < step <= ends}


def _fit(runs: Sequence[TrainedRun], points: Mapping[Path, dict[int, float]]) -> AnnealingLaw:
    """Fit the law: over a grid of fadings and powers, with which all else is linear, then near the best power."""
    losses = np.array([loss for run in runs for loss in points[run.folder].values()])
    if len(losses) < _LEAST:
        raise UserError(
            f"{counted(len(losses), 'validation')} after the warm-up and a tenth of a run: the annealing law takes "
            f"{_LEAST}; expected more; validate more often (train.eval_every), or name more runs"
        )
    best = (np.inf, AnnealingLaw(0, 0, 0, 0, 0))
    for fading in _FADING:
        areas = [_areas(run.config, np.array([*points[run.folder]], int), fading) for run in runs]
        heat, falls = (np.concatenate(each) for each in zip(*areas, strict=True))
        if not falls.any():
            raise UserError(
                "the rate has fallen before no validation: what a fall brings isn't known; expected a run with one, "
                "such as of cosine, or of wsd to its end; name one too"
            )

        def solved(power: float, heat: Array = heat, falls: Array = falls) -> tuple[float, Array]:
            columns = np.stack([np.ones_like(heat), (heat / heat[-1]) ** -power, -falls / falls.max()], axis=1)
            found, off = nnls(columns / losses[:, None], np.ones_like(losses))
            return off, found / [1, heat[-1] ** -power, falls.max()]

        powers = sorted(_POWERS, key=lambda power: solved(power)[0])
        near = minimize_scalar(
            lambda power: solved(power)[0], bounds=(powers[0] / 1.2, powers[0] * 1.2), method="bounded"
        )
        off, (level, size, slope) = solved(near.x)
        if off < best[0]:
            best = off, AnnealingLaw(float(level), float(size), float(near.x), float(slope), fading)
    return best[1]


def _areas(config: Config, steps: Array, fading: float) -> tuple[Array, Array]:
    """Return S1 and S2 after steps, float64 (n)."""
    if not len(steps):
        return np.zeros(0), np.zeros(0)
    rates = _rates(config.optimizer, config.schedule, int(steps.max()))
    falls = -np.diff(rates, prepend=rates[0])
    falls[: config.schedule.warmup_steps] = 0.0
    return np.cumsum(rates)[steps - 1], np.cumsum(lfilter([1.0], [1.0, -fading], falls))[steps - 1]


@lru_cache(maxsize=16)  # each fading is tried with the same rates
def _rates(optimizer: OptimizerConfig, schedule: ScheduleConfig, last: int) -> Array:
    return np.array([learning_rate(optimizer, schedule, step) for step in range(1, last + 1)])
