"""The loss of one model under other learning rate schedules: the multi-power law (Luo et al., arXiv 2503.12811).

    L = L0 + A S^-a - B sum over k of (rate_(k-1) - rate_k) G(S_k / rate_k^(1/2)),   G(x) = 1 - (1 + C x)^(-1/2)

S is the sum of all rates so far, S_k of those since step k: the lower the rate is, the more steps a fall takes to tell.
The halves are free constants in the paper, beta and gamma; few runs don't tell them from C. The falls are those after
the warm-up.
The momentum law (Tissue et al., arXiv 2408.11029), tried first, was off by more (docs/experiments.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, nnls

from lost.checkpoint.changes import MUTABLE_KEYS, differences
from lost.config import Config, OptimizerConfig, ScheduleConfig
from lost.errors import ConfigError, UserError
from lost.optim.rates.schedule import learning_rate
from lost.planning.horizon import with_steps
from lost.scaling.family import check_same_text
from lost.scaling.runs import TrainedRun
from lost.utils.wording import counted

_LEAST = 6  # losses: the law has five constants
_POWERS = np.geomspace(0.02, 4, 30)
_SPEEDS = np.geomspace(1, 1e4, 17)  # of C, where 1 is that of a fall which takes all of a run
_GROUPS = 300  # of falls, each at its middle; no more losses of a run are read either
_LONGEST = 10_000_000
_KEPT = 2 / 3  # of a single run's losses: the others show the error
Array = np.ndarray


@dataclass(frozen=True)
class AnnealingLaw:
    """One set of constants; rates are the optimizer's own."""

    L0: float
    A: float
    a: float
    B: float
    C: float

    def loss(self, config: Config, step: int) -> float:
        """Return the loss in nats a token after a step of a run with this schedule and peak rate."""
        path = _path(config, [step])
        return float(self.L0 + self.A * path.heat[0] ** -self.a - self.B * path.drops(self.C)[0])


class _Path(NamedTuple):
    """What a schedule's rates have been at some steps.

    Attributes:
        heat: sums of the rates so far, (n).
        falls: by how much the rate fell, float64 (m).
        before: the sum of the rates before each fall.
        rates: right after it.
    """

    heat: Array
    falls: Array
    before: Array
    rates: Array

    def drops(self, speed: float) -> Array:
        """Return what the falls have brought at each step, for B = 1, float64 (n)."""
        since = np.maximum(self.heat[:, None] - self.before, 0.0) / np.sqrt(self.rates)
        drops: Array = (1 - 1 / np.sqrt(1 + speed * since)) @ self.falls
        return drops


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
    steps = [step for step in sorted(run.losses) if run.early < step <= ends]
    kept = dict.fromkeys(np.linspace(0, len(steps) - 1, min(len(steps), _GROUPS)).astype(int).tolist())
    return {steps[each]: run.losses[steps[each]] for each in kept}


def _fit(runs: Sequence[TrainedRun], points: Mapping[Path, dict[int, float]]) -> AnnealingLaw:
    """Fit the law: over a grid of powers and speeds, with which all else is linear, then from the best of it."""
    losses = np.array([loss for run in runs for loss in points[run.folder].values()])
    if len(losses) < _LEAST:
        raise UserError(
            f"{counted(len(losses), 'validation')} after the warm-up and a tenth of a run: the annealing law takes "
            f"{_LEAST}; expected more; validate more often (train.eval_every), or name more runs"
        )
    paths = [_path(run.config, [*points[run.folder]]) for run in runs if points[run.folder]]
    heat = np.concatenate([path.heat for path in paths])
    slowest = max(path.rates.max(initial=0.0) for path in paths) ** 0.5 / heat.max()  # C of a fall over all of a run
    if not any(path.drops(slowest).any() for path in paths):
        raise UserError(
            "the rate has fallen before no validation: what a fall brings isn't known; expected a run with one, "
            "such as of cosine, or of wsd to its end; name one too"
        )

    def solved(power: float, drops: Array) -> tuple[float, Array]:
        scale = np.abs(drops).max() or 1.0
        columns = np.stack([np.ones_like(heat), (heat / heat[-1]) ** -power, -drops / scale], axis=1)
        found, distance = nnls(columns / losses[:, None], np.ones_like(losses))
        return float(distance), found / [1, heat[-1] ** -power, scale]

    def drops(speed: float) -> Array:
        return np.concatenate([path.drops(speed) for path in paths])

    grid = {
        (power, speed): solved(power, fallen)[0]
        for speed in slowest * _SPEEDS
        for fallen in [drops(speed)]
        for power in _POWERS
    }
    start = np.log(min(grid, key=lambda each: grid[each]))

    def off(logs: Array) -> float:
        power, speed = np.exp(logs)
        return solved(power, drops(speed))[0]

    power, speed = np.exp(minimize(off, start, method="Nelder-Mead", bounds=[(x - 1, x + 1) for x in start]).x)
    level, size, slope = solved(power, drops(speed))[1]
    return AnnealingLaw(float(level), float(size), float(power), float(slope), float(speed))


def _path(config: Config, steps: Sequence[int]) -> _Path:
    """Return what the rates have been at some steps."""
    rates = _rates(config.optimizer, config.schedule, max(steps))
    sums, falls = np.cumsum(rates), -np.diff(rates, prepend=rates[0])
    falls[: config.schedule.warmup_steps] = 0.0
    where = np.flatnonzero(falls)
    begins = np.unique(np.linspace(0, len(where), min(len(where), _GROUPS), endpoint=False).astype(int))
    middles = where[(begins + np.append(begins[1:], len(where))) // 2] if len(where) else where
    sizes = np.add.reduceat(falls[where], begins) if len(where) else np.zeros(0)
    floor = 1e-9 * config.optimizer.lr  # a rate may fall to 0
    return _Path(sums[np.array(steps) - 1], sizes, sums[middles] - rates[middles], np.maximum(rates[middles], floor))


@lru_cache(maxsize=16)
def _rates(optimizer: OptimizerConfig, schedule: ScheduleConfig, last: int) -> Array:
    return np.array([learning_rate(optimizer, schedule, step) for step in range(1, last + 1)])
