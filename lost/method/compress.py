"""Approximation of a trained weight by a LOST layer without activation.

    y = gamma B down x + (1 - gamma) sparse x[channels] = (W_r + R on the channels) x,    R = W - W_r

Unlike the initialization for training (`lost.projections.lost`), which has the paper's scale and original columns, this
preserves what the layer computes: both parts are divided by their later weights, gamma and 1 - gamma, and the channels
hold what the low-rank part leaves out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lost.config import ProjectionSettings
from lost.errors import UserError
from lost.method.decompose import Factors, channel_count, compose, decompose, leading_pair

# Added to every input's second moment, as a share of their mean: directions that are rare in the calibration text still
# count, and the matrix has a Cholesky factor.
_RIDGE = 1e-4


@dataclass(frozen=True)
class LayerFit:
    """How well a decomposition fits one layer.

    Attributes:
        name: of the layer.
        shape: (out, in).
        rank: of the low-rank pair.
        channels: kept input channels.
        error: ||W - W'|| / ||W||, Frobenius norms.
        input_error: the same of the outputs, root mean square over the inputs of the calibration text; None without
            one.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    channels: int
    error: float
    input_error: float | None


def fitting_rank(rank: int, out_features: int, in_features: int) -> int:
    """Return the rank, or the largest that the matrix can have."""
    return min(rank, out_features, in_features)


@dataclass(frozen=True)
class Weighting:
    """Which errors of a layer's outputs matter; by default all entries of the weight alike.

    Attributes:
        moment: C, (in x in) float64, the mean of x x^T over inputs x of the layer; None: all directions weigh the same.
        rows: D, (out,) float64, positive: what a squared error of each output costs; None: all the same.
    """

    moment: np.ndarray | None = None
    rows: np.ndarray | None = None


UNWEIGHTED = Weighting()


def approximate(weight: np.ndarray, settings: ProjectionSettings, weighting: Weighting = UNWEIGHTED) -> Factors:
    """Split a weight into factors with which a LOST layer without activation approximates it.

    Args:
        weight: (out x in), float32 or float64.
        settings: rank, density, gamma, align; the rank fits the weight.
        weighting: of errors.

    Returns:
        Factors, float64, to be used with the settings' gamma and the activation `none`.

    Raises:
        UserError: gamma is 0 or 1, or the rank, density or weight is invalid.
    """
    if not 0 < settings.gamma < 1:
        raise UserError(
            f"gamma = {settings.gamma}: it would drop one of the two parts; expected more than 0 and less than 1"
        )
    exact = weight.astype(np.float64, copy=False)
    factors = decompose_weighted(exact, weighting, settings.rank, settings.density, settings.align)
    root = settings.gamma**-0.5
    basis, sparse = factors.up[:, : factors.rank], factors.up[:, factors.rank :]
    up = np.concatenate([root * basis, sparse / (1 - settings.gamma)], axis=1)
    return Factors(root * factors.down, up, factors.channels, factors.rank)


def decompose_weighted(weight: np.ndarray, weighting: Weighting, rank: int, density: float, align: int = 1) -> Factors:
    """Split a weight so that the weighted squared error of its outputs, E |D^1/2 (W - W') x|^2, is small.

    With C = E x x^T = L L^T that is |D^1/2 (W - W') L|^2: the low-rank part is D^1/2 W L truncated, times D^-1/2 and
    L^-1 (the whitening of SVD-LLM, arXiv 2403.07378; rows as in FWSVD, 2207.00112). A channel's score is its weighted
    column's norm in the rest R times the root of its mean square. The kept columns are the least-squares fit of all of
    R, R C[:, I] C[I, I]^-1, so that they also make up for channels left out that correlate with them; with C = 1 they
    are R's own.

    Args:
        weight: (out x in) float64.
        weighting: of errors.
        rank: 1 to min(out, in).
        density: share of input channels to keep.
        align: as in `decompose`.
    """
    if weighting.moment is None and weighting.rows is None:
        return decompose(weight, rank, density, "l2", "complement", align=align)
    weighting = with_ridge(weighting)
    down, basis, _ = weighted_pair(weight, weighting, rank)
    rest = weight - basis @ down
    channels, sparse, _ = keep_channels(rest, weighting, channel_count(weight.shape[1], density, rank, align))
    return Factors(down, np.concatenate([basis, sparse], axis=1), channels, rank)


def with_ridge(weighting: Weighting) -> Weighting:
    """Return a weighting in which every direction and row weighs something."""
    moment, rows = weighting.moment, weighting.rows
    if moment is not None:
        moment = moment + _RIDGE * max(float(np.trace(moment)) / len(moment), 1e-30) * np.eye(len(moment))
    if rows is not None:
        rows = rows + _RIDGE * max(float(rows.mean()), 1e-30)
    return Weighting(moment, rows)


def weighted_pair(weight: np.ndarray, weighting: Weighting, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best low-rank pair, down (rank x in) and up (out x rank), and its weighted squared singular values.

    Its leading rows and columns are the best pair of a lower rank; the squared singular values left out are its error.
    """
    from scipy.linalg import solve_triangular  # slow to import, and this module is imported with every backend

    moment, rows = weighting.moment, weighting.rows
    unit = 1.0 if rows is None else float(rows.mean())  # left out of the factors, so that neither is much the larger
    scale = None if rows is None else np.sqrt(rows / unit)[:, None]
    scaled = weight if scale is None else scale * weight
    root = None if moment is None else np.linalg.cholesky(moment)
    down, basis = leading_pair(scaled if root is None else scaled @ root, rank)
    energies = unit * np.square(np.square(down).sum(axis=1))
    if root is not None:
        down = solve_triangular(root, down.T, lower=True, trans="T").T
    return down, basis if scale is None else basis / scale, energies


def keep_channels(rest: np.ndarray, weighting: Weighting, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the channels that a rest (out x in) needs most, their best values (out x count), what they save of it.

    The channels are sorted, int32; the last is by how much the weighted squared error falls.
    """
    moment = weighting.moment
    rows = np.ones(len(rest)) if weighting.rows is None else weighting.rows
    scores = rows @ np.square(rest)
    if moment is not None:
        scores *= np.diag(moment)
    channels = np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int32)
    if moment is None:
        sparse = product = rest[:, channels]
    else:
        product = rest @ moment[:, channels]
        sparse = np.linalg.solve(moment[np.ix_(channels, channels)], product.T).T
    return channels, sparse, float(rows @ np.einsum("ij,ij->i", sparse, product))


def stored(factors: Factors, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return the tensors of a LOST layer by suffix, rounded to the type that they are kept in."""
    return {"down": factors.down.astype(dtype), "up": factors.up.astype(dtype), "channels": factors.channels}


def layer_fit(
    name: str,
    weight: np.ndarray,
    values: Mapping[str, np.ndarray],
    gamma: float,
    moment: np.ndarray | None = None,
) -> LayerFit:
    """Compare a weight with its approximation.

    Args:
        name: of the layer.
        weight: (out x in).
        values: down, up and channels, as stored.
        gamma: weight of the low-rank part.
        moment: as in `approximate`.
    """
    exact, down, up = (each.astype(np.float64) for each in (weight, values["down"], values["up"]))
    factors = Factors(down, up, values["channels"], len(down))
    lost = exact - compose(factors, gamma)
    return LayerFit(
        name=name,
        shape=(exact.shape[0], exact.shape[1]),
        rank=factors.rank,
        channels=len(factors.channels),
        error=_ratio(np.square(lost).sum(), np.square(exact).sum()),
        input_error=None if moment is None else _ratio(*(np.vdot(each @ moment, each) for each in (lost, exact))),
    )


def _ratio(part: float, whole: float) -> float:
    return float(max(part, 0.0) / whole) ** 0.5 if whole > 0 else 0.0
