"""Runs that one law describes: one kind, one text, and losses that may be compared."""

import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lost.errors import DataError, UserError
from lost.model.parameters import parameter_table
from lost.scaling.law import Fit, Points, fit, missing
from lost.scaling.runs import TrainedRun
from lost.utils.wording import counted

_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("model", "projection", "optimizer", "schedule"), True),
    "train": {"batch_size", "dtype", "param_dtype", "grad_clip", "z_loss", "skip_spikes"},
}
"""What a run's loss depends on, but for its text, its seed, and a teacher."""

_TEXT: dict[str, Callable[[TrainedRun], object]] = {
    "their prepared text": lambda run: run.data,
    "data.seq_len": lambda run: run.config.data.seq_len,
    "train.eval_tokens": lambda run: run.config.train.eval_tokens,
}


@dataclass(frozen=True)
class Family:
    """Runs of one kind, and their losses that are fitted.

    Attributes:
        kind: of their projections.
        runs: the runs, at least one.
        losses: of each run, by step.
        at_peak: whether they were measured at the peak rate; else at their schedules' ends.
    """

    kind: str
    runs: tuple[TrainedRun, ...]
    losses: tuple[dict[int, float], ...]
    at_peak: bool

    @property
    def tokens(self) -> list[int]:
        """The tokens at each run's last loss."""
        return [run.tokens(max(losses)) for run, losses in zip(self.runs, self.losses, strict=True)]

    def points(self, size: Literal["parameters", "flops"]) -> Points:
        """Return what is fitted; a size is in parameters, or in those that a dense layer of the same FLOPs has."""
        rows = [
            (run.size if size == "parameters" else run.flops / 6, run.tokens(step), loss, number)
            for number, (run, losses) in enumerate(zip(self.runs, self.losses, strict=True))
            for step, loss in sorted(losses.items())
        ]
        sizes, tokens, losses, numbers = np.array(rows, np.float64).T
        return Points(sizes, tokens, losses, numbers.astype(int))


@dataclass(frozen=True)
class FittedFamily:
    """Runs of one kind, and their laws.

    Attributes:
        family: the runs.
        parameters: the law whose N is in parameters without embeddings.
        flops: the law whose N is a sixth of a token's FLOPs.
    """

    family: Family
    parameters: Fit
    flops: Fit


def fitted(family: Family) -> FittedFamily:
    """Fit both laws.

    Raises:
        UserError: there are too few runs; the message says how many are missing.
    """
    points = family.points("parameters")
    if lacking := missing(points):
        raise UserError(
            f"{family.kind}: {'; '.join(lacking)}; expected several sizes, each with several numbers of tokens; "
            "train more, such as by `lost sweep`"
        )
    # Each kind draws its own errors: in what is between two kinds, the same ones would cancel.
    seed = zlib.crc32(family.kind.encode())
    return FittedFamily(family, fit(points, seed), fit(family.points("flops"), seed))


def family_of(runs: Sequence[TrainedRun], ends: bool) -> tuple[Family, list[str]]:
    """Return the losses that are fitted, and which runs are left out and why.

    Unfinished runs, those with frozen parameters, and those that didn't begin with initial weights, are left out. Where
    all rates are constant, or decay at the end alone (wsd), losses at the peak rate are taken, several of a run; else,
    or where none was measured, those at schedules' ends. Of runs that differ in more than their seeds, though not in
    size and tokens, as those of a search for a rate do, the ones with the best settings are taken.

    Args:
        runs: at least one.
        ends: whether ends are taken in any case.

    Raises:
        DataError: their losses are of different text.
        UserError: they are of several kinds, of rates that decay and of some that don't, or none is left.
    """
    reasons = {run.folder: _unlike_others(run) for run in runs}
    left_out = [f"left out: {folder}: {reason}" for folder, reason in reasons.items() if reason]
    runs = [run for run in runs if not reasons[run.folder]]
    if not runs:
        raise UserError(
            f"no finished run trained a whole model from initial weights: expected some; {'; '.join(left_out)}"
        )
    check_same_text(runs)
    _check_one([run.kind for run in runs], runs, "kind of projection", "name those of one, or two kinds with --compare")
    at_peak = not ends and all(run.is_level for run in runs) and any(map(TrainedRun.at_peak, runs))
    losses = {run.folder: run.at_peak() if at_peak else run.at_end() for run in runs}
    where = "at the peak rate, after a tenth of its steps" if at_peak else "at its schedule's end"
    left_out += [f"left out: {run.folder}: it has no validation {where}" for run in runs if not losses[run.folder]]
    used = [run for run in runs if losses[run.folder]]
    if not used:
        raise UserError(f"no run has a validation {where}: expected some that have; {'; '.join(left_out)}")
    if not at_peak:
        decays = ["decaying" if run.decays else "constant" for run in used]
        _check_one(decays, used, "kind of schedule", "a decay lowers the loss: name runs of one")
    best = _with_best_settings(used, losses)
    if len(best) < len(used):
        others = counted(len(used) - len(best), "run")
        left_out.append(f"left out: {others} of settings that did worse than others of the same size and tokens")
    return Family(best[0].kind, tuple(best), tuple(losses[run.folder] for run in best), at_peak), left_out


def check_same_text(runs: Sequence[TrainedRun]) -> None:
    """Check that losses of runs are of the same text.

    Raises:
        DataError: they aren't; the message names two runs.
    """
    for first, other in pairwise(runs):
        for what, of in _TEXT.items():
            if of(first) != of(other):
                raise DataError(
                    f"{first.folder} and {other.folder} differ in {what} ({of(first)!s:.20} and {of(other)!s:.20}): "
                    "expected runs whose losses can be compared; leave out those that differ"
                )


def _check_one(values: Sequence[str], runs: Sequence[TrainedRun], what: str, remedy: str) -> None:
    first = dict(zip(reversed(values), reversed(runs), strict=True))
    if len(first) > 1:
        named = ", ".join(f"{value} ({first[value].folder})" for value in dict.fromkeys(values))
        raise UserError(f"runs of more than one {what}: {named}; expected one; {remedy}")


def check_comparable(one: Family, two: Family) -> None:
    """Check that the losses of two kinds may be compared.

    Raises:
        DataError: they are of different text.
        UserError: only one kind's were measured where the rate had decayed.
    """
    check_same_text([one.runs[0], two.runs[0]])
    if one.at_peak != two.at_peak:
        peak, end = (one, two) if one.at_peak else (two, one)
        raise UserError(
            f"{peak.kind}'s losses are those at the peak rate, and {end.kind}'s those at schedules' ends, which "
            "a decay has lowered; expected the same of both; --ends takes ends of wsd's runs too"
        )


def _unlike_others(run: TrainedRun) -> str | None:
    """Return why no law of size and tokens is of a run; None: one may be.

    A branch on the same text is taken for the longer run that it makes of its source.
    """
    if not run.is_finished:
        return f"it isn't finished: it has no validation at step {run.config.last_step}, where it ends"
    if any(row.frozen for row in parameter_table(run.config).values()):
        return "some of its parameters are frozen, which its size counts too"
    origin = run.origin
    while origin and origin.moments and origin.data in ("", run.data):  # empty: before there were branches on others
        origin = origin.before
    return f"it didn't begin with initial weights, but with those of {origin.path}" if origin else None


def _settings_of(run: TrainedRun) -> tuple[str, str | None]:
    """Return what runs that differ in their seeds alone have in common."""
    taught = {"teacher": {"weight", "temperature"}} if run.teacher else {}
    return run.config.model_dump_json(include=_SETTINGS | taught), run.teacher


def _with_best_settings(runs: Sequence[TrainedRun], losses: dict[Path, dict[int, float]]) -> list[TrainedRun]:
    """Return, of the runs of each size and number of tokens, those with the settings whose last loss is lowest."""
    groups: dict[tuple[int, int, int], dict[tuple[str, str | None], list[TrainedRun]]] = {}
    for run in runs:
        at = run.size, run.flops, run.tokens(max(losses[run.folder]))
        groups.setdefault(at, {}).setdefault(_settings_of(run), []).append(run)

    def last(same: list[TrainedRun]) -> float:
        return statistics.mean(losses[run.folder][max(losses[run.folder])] for run in same)

    return [run for settings in groups.values() for run in min(settings.values(), key=last)]
