"""Scaling laws: planted constants come back, intervals hold them, curves cross where they were made to."""

import numpy as np
import pytest
from conftest import tiny_config

from lost.scaling.comparison import crossings, effective_size
from lost.scaling.family import Family, FittedFamily, fitted
from lost.scaling.law import CONSTANTS, Fit, Law, Points, fit, interval, missing
from lost.scaling.runs import TrainedRun

PLANTED = Law(E=1.7, A=40.0, a=0.3, B=400.0, b=0.35)
SIZES, TOKENS = np.array([3e5, 6e5, 1.2e6, 2.4e6, 5e6]), np.array([1e6, 4e6, 16e6])


def noisy(deviation: float, seed: int = 0) -> Points:
    """A run for each size and number of tokens."""
    sizes, tokens = (each.ravel() for each in np.meshgrid(SIZES, TOKENS))
    noise = deviation * np.random.default_rng(seed).standard_normal(len(sizes))
    return Points(sizes, tokens, PLANTED.loss(sizes, tokens) * np.exp(noise), np.arange(len(sizes)))


def test_planted_constants_come_back() -> None:
    found = fit(noisy(0.0))
    for name in CONSTANTS:
        assert getattr(found.law, name) == pytest.approx(getattr(PLANTED, name), rel=1e-3)
    loss, between = found.predict(1e8, 1e9)
    assert loss == pytest.approx(PLANTED.loss(1e8, 1e9), rel=1e-4)
    assert between is not None
    assert between[1] - between[0] < 1e-2


def test_intervals_hold_the_planted_constants_and_the_next_run() -> None:
    """95 % of them should; of 20, fewer than 16 would be one chance in four hundred."""
    held, next_runs = dict.fromkeys(CONSTANTS, 0), 0
    for seed in range(20):
        found = fit(noisy(0.004, seed), seed, draws=60)
        for name in CONSTANTS:
            low, high = interval([getattr(each, name) for each in found.draws])
            held[name] += low <= getattr(PLANTED, name) <= high
        _, (low, high) = found.predict(2e7, 4e7)
        next_runs += low <= PLANTED.loss(2e7, 4e7) * np.exp(0.004 * np.random.default_rng(900 + seed).normal()) <= high
    assert min(*held.values(), next_runs) >= 16, (held, next_runs)
    assert (high - low) / low < 0.2  # no interval that holds all by being everything


def test_between_draws_lies_the_next_one() -> None:
    """199 draws have 200 gaps, all as likely to hold it: five lie outside to either side."""
    assert interval(np.arange(1, 200)) == pytest.approx((5, 195))
    assert interval([3.0, 1.0]) == (1.0, 3.0)


def test_one_odd_run_moves_little() -> None:
    """Huber's loss: a run that is far off counts by its distance, not by its square."""
    points = noisy(0.0005)
    points.losses[7] *= 1.2
    assert fit(points, draws=2).law.loss(2e7, 4e7) == pytest.approx(PLANTED.loss(2e7, 4e7), rel=0.01)


def test_errors_that_a_run_has_in_common_count_once() -> None:
    """Ten validations of each of five runs don't make fifty runs."""
    sizes, tokens = np.repeat(SIZES, 10), np.tile(np.linspace(2e6, 16e6, 10), 5)
    runs = np.repeat(np.arange(5), 10)
    errors = 0.004 * np.random.default_rng(1).standard_normal(5)
    found = fit(Points(sizes, tokens, PLANTED.loss(sizes, tokens) * np.exp(errors[runs]), runs))
    low, high = interval([each.a for each in found.draws])
    assert low < PLANTED.a < high
    assert high - low > 0.02


def test_as_many_losses_as_constants_have_no_interval() -> None:
    points = noisy(0.0)
    few = Points(*(each[[0, 4, 7, 10, 14]] for each in (points.sizes, points.tokens, points.losses, points.runs)))
    assert not missing(few)
    assert fit(few).predict(1e7, 1e7)[1] is None


@pytest.mark.parametrize(
    ("chosen", "what"),
    [
        ([0, 6, 12], ["3 runs", "2 missing"]),
        ([0, 1, 2, 3, 4], ["1 token count", "2 missing"]),
        ([0, 1, 5, 6, 10, 11], ["2 sizes", "1 missing"]),
    ],
)
def test_what_is_missing_is_said(chosen: list[int], what: list[str]) -> None:
    points = noisy(0.0)
    lacking = missing(Points(*(each[chosen] for each in (points.sizes, points.tokens, points.losses, points.runs))))
    assert len(lacking) == 1
    assert all(each in lacking[0] for each in what)


def a_family(kind: str, law: Law, share: float) -> FittedFamily:
    """Runs of three shapes; a kind has this share of the dense parameters, and FLOPs like a dense model of its size."""
    runs, config = [], tiny_config(projection={"kind": kind})
    for shape in (1e6, 1e7, 1e8):
        size = int(share * shape)
        runs.append(TrainedRun(None, config, "", size, int(shape), 6 * size, size * 1e-9, {}))
    steps = [1_000_000 // 32, 10_000_000 // 32, 100_000_000 // 32]
    family = Family(kind, tuple(runs), tuple({step: 1.0} for step in steps), at_peak=False)
    known = Fit(law, (law, law), 0.0)
    return FittedFamily(family, known, known)


def test_curves_cross_where_they_were_made_to() -> None:
    """Dense is better by .1 for its larger size, and worse by B/D^.5: they meet where that is .1 too."""
    dense = a_family("dense", Law(E=2.0, A=0.0, a=0.5, B=600.0, b=0.5), 1.0)
    lost = a_family("lost", Law(E=2.1, A=0.0, a=0.5, B=200.0, b=0.5), 0.5)
    tokens, flops, seconds = crossings(dense, lost)
    assert tokens.at == pytest.approx((400 / 0.1) ** 2, rel=0.01)
    assert tokens.interval == pytest.approx((tokens.at, tokens.at))
    assert (tokens.ahead, tokens.share, tokens.certainty) == ("dense", 1.0, 1.0)
    # With no gain from size, the smallest model that is looked at is best: a tenth of the smallest that was trained.
    at = np.geomspace(flops.low, 10 * flops.trained, 2000)
    gap = dense.flops.law.loss(1, at / 6e5) - lost.flops.law.loss(1, at / 3e5)
    assert flops.at == pytest.approx(at[np.abs(gap).argmin()], rel=0.02)
    assert seconds.at == pytest.approx(flops.at / 6e9, rel=0.02)  # both were made to take 1e-9 seconds a parameter


def test_curves_that_do_not_cross_say_who_is_ahead() -> None:
    worse, better = (
        a_family(kind, Law(E=e, A=9.0, a=0.3, B=99.0, b=0.3), 1.0) for kind, e in (("dense", 2), ("lost", 1))
    )
    for each in crossings(worse, better):
        assert (each.at, each.interval, each.share, each.ahead) == (None, None, 0.0, "lost")


def test_effective_size_is_the_other_kinds_size_of_the_same_loss() -> None:
    """One law, but a kind whose parameters count twice."""
    dense = a_family("dense", PLANTED, 1.0)
    lost = a_family("lost", Law(PLANTED.E, PLANTED.A * 2**-PLANTED.a, PLANTED.a, PLANTED.B, PLANTED.b), 0.5)
    found = effective_size(dense, lost)
    assert (found.size, found.equal) == (50_000_000, pytest.approx(1e8, rel=1e-6))
    best = a_family("lost", Law(0.5, PLANTED.A, PLANTED.a, PLANTED.B, PLANTED.b), 0.5)
    assert effective_size(dense, best).equal is None


def test_shapes_that_differ_leave_tokens_out() -> None:
    dense, lost = (a_family(kind, PLANTED, 1.0) for kind in ("dense", "lost"))
    other = tuple(
        TrainedRun(*(*each.__dict__.values(),)[:4], each.dense_size + 1, *(*each.__dict__.values(),)[5:])
        for each in lost.family.runs
    )
    moved = FittedFamily(Family("lost", other, lost.family.losses, False), lost.parameters, lost.flops)
    assert [each.unit for each in crossings(dense, moved)] == ["FLOPs", "seconds"]


def test_two_kinds_draw_errors_of_their_own() -> None:
    """Alike, they would cancel in the gap between two kinds, and say of any crossing that it is sure."""
    points, drawn = noisy(0.01), {}
    for kind in ("dense", "lost"):
        config = tiny_config(projection={"kind": kind})
        sizes = [int(size) for size in points.sizes]
        runs = tuple(TrainedRun(None, config, "", size, size, 6 * size, 1e-6, {}) for size in sizes)
        losses = tuple(
            {int(tokens) // 32: float(loss)} for tokens, loss in zip(points.tokens, points.losses, strict=True)
        )
        drawn[kind] = [law.loss(1e6, 4e6) for law in fitted(Family(kind, runs, losses, at_peak=False)).parameters.draws]
    assert abs(np.corrcoef(*drawn.values())[0, 1]) < 0.3


def test_a_kind_without_draws_is_compared_without_intervals() -> None:
    """As many runs as constants tell nothing of how much runs vary; the other kind's draws have no partners then."""
    dense = a_family("dense", PLANTED, 1.0)
    lost = a_family("lost", Law(PLANTED.E, PLANTED.A * 2**-PLANTED.a, PLANTED.a, PLANTED.B, PLANTED.b), 0.5)
    few = FittedFamily(lost.family, *(Fit(each.law, (), 0.0) for each in (lost.parameters, lost.flops)))
    for first, second in ((dense, few), (few, dense)):
        for each in crossings(first, second):
            assert (each.interval, each.share, each.certainty) == (None, None, None)
        found = effective_size(first, second)
        assert found.equal
        assert found.interval is None


def test_a_size_beyond_all_numbers_is_none() -> None:
    """Dense's size brings so little that no number of parameters makes up for what is between the two."""
    flat = a_family("dense", Law(2.0, 1.0, 1e-4, 1.0, 0.3), 1.0)
    assert effective_size(flat, a_family("lost", Law(2.5, 0.0, 0.3, 1.0, 0.3), 0.5)).equal is None


def test_losses_that_hardly_change_with_size_give_a_law_all_the_same() -> None:
    points = noisy(0.01, 3)
    points.losses[:] = np.where(points.sizes > 5e5, 3.0, 4.0) + 1e4 / points.tokens
    found = fit(points, draws=20)
    assert np.isfinite([*found.law.__dict__.values()]).all()
    assert np.isfinite(found.predict(1e7, 1e7)[1]).all()
