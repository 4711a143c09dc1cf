"""Two laws side by side: where their curves cross, and which size of one does as well as a size of the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lost.scaling.family import Family, FittedFamily
from lost.scaling.law import Array, Fit, Law, interval

FAR = 10  # times what was trained: beyond that a law is no more than a guess
_BUDGETS, _SIZES = 100, 30  # points of a curve; sizes among which the best for a budget is looked for
_Curve = Callable[[Law, Array], Array]  # the lowest losses that a kind comes to with budgets


@dataclass(frozen=True)
class Crossing:
    """Where two curves of the lowest loss by budget meet.

    Attributes:
        unit: tokens, FLOPs or seconds.
        low: the least budget that was looked at.
        trained: the largest that both kinds were trained with; budgets were looked at up to `FAR` times that.
        at: the largest budget at which they meet; None: they don't.
        interval: of it, over the draws in which they meet; None: they do in none.
        share: of the draws in which they meet; None: a kind has no draws.
        ahead: the kind whose loss is the lower one at the end of the range.
        certainty: share of the draws that say so too; None: a kind has no draws.
    """

    unit: str
    low: float
    trained: float
    at: float | None
    interval: tuple[float, float] | None
    share: float | None
    ahead: str
    certainty: float | None


@dataclass(frozen=True)
class EffectiveSize:
    """The size of the first kind that would do as well as the largest of the second, from as many tokens.

    Attributes:
        size: of the second kind, in parameters without embeddings.
        tokens: of that size's longest run.
        equal: of the first kind; None: no size of it would.
        interval: of it, over the draws in which one would; None: in none.
    """

    size: int
    tokens: int
    equal: float | None
    interval: tuple[float, float] | None


def crossings(first: FittedFamily, second: FittedFamily) -> list[Crossing]:
    """Return where the curves cross in tokens, FLOPs and seconds.

    In tokens, both kinds have the largest shape that both were trained in; where they share none, tokens are left out.
    In FLOPs and seconds, each has the size that is best for the budget, at most `FAR` times off those trained.
    """
    one, two = first.family, second.family
    found = []
    if shapes := _shared_shape(one, two):
        curves = _of_size(shapes[0]), _of_size(shapes[1])
        fits = first.parameters, second.parameters
        found.append(_crossing("tokens", (one, two), fits, curves, (one.tokens, two.tokens)))
    for unit, cost in (("FLOPs", _flops), ("seconds", _seconds)):
        costs = cost(one), cost(two)
        curves = _of_best_size(one, costs[0]), _of_best_size(two, costs[1])
        spent = _spent(one, costs[0]), _spent(two, costs[1])
        found.append(_crossing(unit, (one, two), (first.flops, second.flops), curves, spent))
    return found


def effective_size(first: FittedFamily, second: FittedFamily) -> EffectiveSize:
    """Return which size of the first kind does as well as the largest of the second."""
    family = second.family
    size, tokens = max((run.size, tokens) for run, tokens in zip(family.runs, family.tokens, strict=True))

    def equal(reference: Law, other: Law) -> float | None:
        left = float(other.loss(size, tokens)) - reference.E - reference.B * tokens**-reference.b
        found = np.exp(np.log(reference.A / left) / reference.a) if left > 0 else np.inf
        return float(found) if np.isfinite(found) else None

    with np.errstate(over="ignore"):
        own = equal(first.parameters.law, second.parameters.law)
        drawn = [equal(*laws) for laws in _drawn(first.parameters, second.parameters)]
    known = [each for each in drawn if each is not None]
    return EffectiveSize(size, tokens, own, interval(known))


def _shared_shape(one: Family, two: Family) -> tuple[int, int] | None:
    """Return each kind's size in the largest shape that both have; shapes are known by their dense twin's size."""
    sizes = [{run.dense_size: run.size for run in each.runs} for each in (one, two)]
    shared = sizes[0].keys() & sizes[1].keys()
    return (sizes[0][max(shared)], sizes[1][max(shared)]) if shared else None


def _of_size(size: float) -> _Curve:
    return lambda law, tokens: law.loss(size, tokens)


def _of_best_size(family: Family, cost: Callable[[Array], Array]) -> _Curve:
    """Return the curve of the best size for each budget, given what a token costs by size."""
    trained = [run.flops / 6 for run in family.runs]
    sizes = np.geomspace(min(trained) / FAR, max(trained) * FAR, _SIZES)[:, None]
    return lambda law, budgets: law.loss(sizes, budgets / cost(sizes)).min(axis=0)


def _flops(family: Family) -> Callable[[Array], Array]:
    return lambda size: 6 * size


def _seconds(family: Family) -> Callable[[Array], Array]:
    """Return a token's seconds by size: a straight line in logarithms through what the runs took."""
    sizes, seconds = np.log([(run.flops / 6, run.seconds) for run in family.runs]).T
    slope, start = np.polyfit(sizes, seconds, 1)
    return lambda size: np.exp(start + slope * np.log(size))


def _spent(family: Family, cost: Callable[[Array], Array]) -> list[float]:
    """Return the budget of each run."""
    pairs = zip(family.runs, family.tokens, strict=True)
    return [float(cost(np.array(run.flops / 6))) * tokens for run, tokens in pairs]


def _crossing(
    unit: str,
    families: tuple[Family, Family],
    fits: tuple[Fit, Fit],
    curves: tuple[_Curve, _Curve],
    spent: tuple[list[int] | list[float], list[int] | list[float]],
) -> Crossing:
    trained = min(max(each) for each in spent)
    low = min(trained, max(min(each) for each in spent))
    budgets = np.geomspace(low, FAR * trained, _BUDGETS)

    def gap(one: Law, two: Law) -> Array:
        return curves[0](one, budgets) - curves[1](two, budgets)

    gaps = [gap(*laws) for laws in _drawn(*fits)]
    own = gap(fits[0].law, fits[1].law)
    met = [at for each in gaps if (at := _last_zero(budgets, each)) is not None]
    ahead = bool(own[-1] > 0)
    return Crossing(
        unit,
        float(low),
        float(trained),
        _last_zero(budgets, own),
        interval(met),
        len(met) / len(gaps) if gaps else None,
        families[ahead].kind,
        sum((each[-1] > 0) == ahead for each in gaps) / len(gaps) if gaps else None,
    )


def _drawn(one: Fit, two: Fit) -> list[tuple[Law, Law]]:
    """Return the draws of two fits, in pairs; none where one of them has none."""
    return list(zip(one.draws, two.draws, strict=True)) if one.draws and two.draws else []


def _last_zero(budgets: Array, gap: Array) -> float | None:
    """Return the largest budget at which a gap changes its sign, between two budgets by a straight line; or None."""
    changes = np.flatnonzero((gap[1:] > 0) != (gap[:-1] > 0))
    if not len(changes):
        return None
    before, after = np.log(budgets[changes[-1] :][:2])
    left, right = gap[changes[-1] :][:2]
    return float(np.exp(before + (after - before) * left / (left - right)))
