"""The law L(N, D) = E + A/N^a + B/D^b (Hoffmann et al., arXiv 2203.15556), fitted to losses of runs, with intervals."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from lost.utils.wording import counted

CONSTANTS = ("E", "A", "a", "B", "b")
LEAST = 3  # sizes, and numbers of tokens: fewer leave A and a, or B and b, undetermined
DRAWS = 200  # of the bootstrap
_DELTA = 1e-3  # of the Huber loss on log losses, as in the paper: what lies further off counts by its distance
# Where a fit starts: shares of the lowest loss that E and the terms of size and tokens take; exponents.
_STARTS = tuple(itertools.product((0.2, 0.5, 0.9), (0.05, 0.3), (0.05, 0.3), (0.2, 0.7), (0.2, 0.7)))
_ROUNDS, _TINY = 60, 1e-12  # of least squares; a slope that is none
_STEEPEST = float(np.log(5))  # of exponents: with larger ones A and B are no numbers any more
Array = np.ndarray


@dataclass(frozen=True)
class Points:
    """Losses to fit.

    Attributes:
        sizes: N, float64 (n).
        tokens: D, float64 (n).
        losses: nats a token, float64 (n).
        runs: the run that each is of, by number from 0, int (n).
    """

    sizes: Array
    tokens: Array
    losses: Array
    runs: Array


@dataclass(frozen=True)
class Law:
    """One set of constants."""

    E: float
    A: float
    a: float
    B: float
    b: float

    def loss(self, size: Array | float, tokens: Array | float) -> Array:
        """Return the loss in nats a token; shapes are broadcast."""
        return self.E + self.A * np.power(size, -self.a) + self.B * np.power(tokens, -self.b)


@dataclass(frozen=True)
class Fit:
    """A law, and how sure it is.

    Attributes:
        law: the constants that fit best.
        draws: laws that other seeds might have given, `DRAWS` of them; none where nothing tells how much runs vary.
        deviation: of a run's log loss about the law; 0 where nothing tells.
    """

    law: Law
    draws: tuple[Law, ...]
    deviation: float

    def predict(self, size: float, tokens: float) -> tuple[float, tuple[float, float] | None]:
        """Return the loss that a run will have, and the interval of 95 %, its own chance included."""
        chance = np.exp(self.deviation * np.random.default_rng(0).standard_normal(len(self.draws)))
        drawn = [float(law.loss(size, tokens)) * own for law, own in zip(self.draws, chance, strict=True)]
        return float(self.law.loss(size, tokens)), interval(drawn)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return between which of some draws another one lies in 95 % of cases; None: there are none."""
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5], method="weibull")
    return float(low), float(high)


def missing(points: Points) -> list[str]:
    """Return what is missing for a fit, in words; nothing: it can be made."""
    least = {
        "run": (len(np.unique(points.runs)), len(CONSTANTS), "the law's constants"),
        "size": (len(np.unique(points.sizes)), LEAST, "E, A and a"),
        "token count": (len(np.unique(points.tokens)), LEAST, "E, B and b"),
    }
    return [
        f"{counted(have, what)} for {purpose}, which take {needed}: {needed - have} missing"
        for what, (have, needed, purpose) in least.items()
        if have < needed
    ]


def fit(points: Points, seed: int = 0, draws: int = DRAWS) -> Fit:
    """Fit the law from a grid of starts; draw others by a parametric bootstrap.

    Each draw fits anew what the law says, plus normal errors as large as the residuals say: one that all points of a
    run have in common, and one of each point. Sizes and tokens stay as they are, so that few runs are enough.

    Args:
        points: for which nothing is `missing`.
        seed: of the bootstrap.
        draws: its number.
    """
    problem, losses = _Problem(points), np.log(points.losses)
    found = problem.solve(problem.starts(), losses[None])
    best = problem.polished(found[np.argmin(problem.off(found, losses[None]))], losses)[None]
    expected = problem.log_losses(best)[0]
    common, own, spare = _errors(losses - expected, points.runs)
    if not spare:
        return Fit(problem.law(best[0]), (), 0.0)
    random = np.random.default_rng(seed)
    # Residuals tell the errors' size only so well: with few to spare, draws are spread as Student's t is.
    scale = np.sqrt(spare / random.chisquare(spare, (draws, 1)))
    shared = random.standard_normal((draws, int(points.runs.max()) + 1))[:, points.runs]
    errors = scale * (common * shared + own * random.standard_normal((draws, len(losses))))
    drawn = problem.solve(np.repeat(best, draws, 0), expected + errors)
    return Fit(problem.law(best[0]), tuple(map(problem.law, drawn)), float(np.hypot(common, own)))


def _errors(residuals: Array, runs: Array) -> tuple[float, float, int]:
    """Return the deviations of what a run's points have in common and of each alone, and how many tell the former."""
    names, index, counts = np.unique(runs, return_inverse=True, return_counts=True)
    means = np.bincount(index, residuals) / counts
    several = len(residuals) > len(names)
    spare = len(names) - (LEAST if several else len(CONSTANTS))  # what tokens do is then seen within each run
    if spare < 1:
        return 0.0, 0.0, 0
    within = residuals - means[index]
    own = np.sqrt(np.sum(within**2) / max(1, len(residuals) - len(names) - 2)) if several else 0.0
    return float(np.sqrt(np.sum(means**2) / spare)), float(own), spare


class _Problem:
    """The minimization in variables of order 1: logs of the three terms in the middle of the points, of the exponents.

    Several problems, of other starts or other losses, are solved as one: rows don't meet, and numpy takes them at once.
    """

    def __init__(self, points: Points) -> None:
        size, tokens = np.log(points.sizes), np.log(points.tokens)
        self._middle = size.mean(), tokens.mean()
        self._size, self._tokens = size - self._middle[0], tokens - self._middle[1]
        self._lowest = float(np.log(points.losses.min()))

    def starts(self) -> Array:
        """Return the grid of starts, float64 (starts, 5)."""
        grid = np.log(np.array(_STARTS))
        grid[:, :3] += self._lowest
        return grid

    def law(self, x: Array) -> Law:
        """Return the law in its own constants."""
        e, size, tokens, a, b = (float(each) for each in np.exp(x))
        return Law(e, size * float(np.exp(a * self._middle[0])), a, tokens * float(np.exp(b * self._middle[1])), b)

    def log_losses(self, x: Array) -> Array:
        """Return the log losses of the points, float64 (rows, n)."""
        return np.logaddexp.reduce(self._terms(x))

    def off(self, x: Array, log_losses: Array) -> Array:
        """Return the Huber loss of each row, in units of its delta squared."""
        off = np.abs(self.log_losses(x) - log_losses) / _DELTA
        return np.where(off <= 1, off**2 / 2, off - 0.5).sum(axis=1)

    def polished(self, start: Array, log_losses: Array) -> Array:
        """Return the constants that L-BFGS comes to from a start; float64 (5)."""

        def objective(x: Array) -> tuple[float, Array]:
            expected, slopes = self._linearized(x[None])
            pull = np.clip((expected[0] - log_losses) / _DELTA, -1, 1) / _DELTA
            return float(self.off(x[None], log_losses)[0]), pull @ slopes[0]

        bounds = [(None, None)] * 3 + [(None, _STEEPEST)] * 2
        return minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds).x

    def solve(self, starts: Array, log_losses: Array) -> Array:
        """Return the constants that fit best near each start, float64 (rows, 5), by reweighted, damped least squares.

        All rows in one go: scipy's solvers take one at a time, and hundreds of draws are to be solved.
        """
        x, lowest = starts, self.off(starts, log_losses)
        damping = np.full((len(x), 1), 1e-3)
        for _ in range(_ROUNDS):
            expected, slopes = self._linearized(x)
            residuals = expected - log_losses
            weighted = slopes / np.maximum(1, np.abs(residuals) / _DELTA)[..., None]
            normal = np.swapaxes(weighted, 1, 2) @ slopes
            diagonal = damping * np.einsum("rii->ri", normal) + _TINY
            damped = normal + diagonal[..., None] * np.eye(5)
            downhill = np.linalg.solve(damped, np.swapaxes(weighted, 1, 2) @ residuals[..., None])
            tried = x - np.clip(downhill[..., 0], -1, 1)
            tried[:, 3:] = np.minimum(tried[:, 3:], _STEEPEST)
            reached = self.off(tried, log_losses)
            better = (reached <= lowest)[:, None]
            x, lowest = np.where(better, tried, x), np.minimum(reached, lowest)
            damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        return x

    def _linearized(self, x: Array) -> tuple[Array, Array]:
        """Return the log losses (rows, n), and their slopes by the five variables (rows, n, 5)."""
        terms = self._terms(x)
        expected = np.logaddexp.reduce(terms)
        e, size, tokens = np.exp(terms - expected)
        a, b = np.exp(x[:, 3:4]), np.exp(x[:, 4:5])
        return expected, np.stack([e, size, tokens, -a * size * self._size, -b * tokens * self._tokens], axis=2)

    def _terms(self, x: Array) -> Array:
        """Return the logs of the three terms, float64 (3, rows, n)."""
        e, size, tokens, a, b = x.T[:, :, None]
        flat = np.zeros_like(self._size)
        return np.stack([e + flat, size - np.exp(a) * self._size, tokens - np.exp(b) * self._tokens])
