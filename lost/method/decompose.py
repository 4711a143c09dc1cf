"""The decomposition that initializes a LOST layer, and its inverse (arXiv 2508.02668, section 3).

Only the leading singular triplets are computed, from the eigenvectors of the smaller Gram matrix in float64: a
fraction of a thin SVD's time, with the same singular values and the same choice of channels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lost.errors import UserError
from lost.method.eigen import leading_eigenvectors

# A squared residual below this share of its column is rounding error: such columns count as fully captured. Ties go to
# the lower channel number, so that every BLAS selects the same channels.
_CAPTURED = 1e-11


@dataclass(frozen=True)
class Factors:
    """A weight W (out x in) as a low-rank pair and k whole input channels.

    Attributes:
        down: (rank x in), sqrt(S_r) V_r^T.
        up: (out x (rank + k)), [U_r sqrt(S_r) | values of the kept channels].
        channels: (k,) int32, sorted.
        rank: number of columns of `up` that belong to the low-rank pair.
    """

    down: np.ndarray
    up: np.ndarray
    channels: np.ndarray
    rank: int


def channel_count(in_features: int, density: float, rank: int, align: int = 1) -> int:
    """Return k = max(1, int(density * in_features)), raised until rank + k is a multiple of `align`; at most all."""
    count = max(1, int(density * in_features))
    return min(in_features, count + -(rank + count) % align)


def decompose(
    weight: np.ndarray,
    rank: int,
    density: float,
    select: Literal["l2", "l1", "leverage", "random"] = "l2",
    values: Literal["original", "complement"] = "original",
    *,
    align: int = 1,
    random: np.random.Generator | None = None,
) -> Factors:
    """Split a dense weight into the factors of a LOST layer.

    Args:
        weight: (out x in), float32 or float64.
        rank: leading singular triplets to keep, 1 to min(out, in).
        density: share of input channels to keep, in (0, 1].
        select: which channels are kept. `l2` (the paper's) and `l1`: those with the largest norm in the complement
            W - U_r S_r V_r^T; `leverage`: those that the singular vectors capture least, by the norm of their row of
            V_r; `random`: any.
        values: columns of `up` for those channels: `original` ones of W, or the `complement`'s.
        align: round the channel count up so that rank + k is a multiple of this.
        random: draws the channels where `select` is `random`.

    Returns:
        Factors of the weight's dtype (float64 inside); each pair of singular vectors has the sign that makes the
        largest entry of its row of `down` positive.

    Raises:
        UserError: an invalid rank, density, weight or option.
    """
    _check(weight, rank, density, select, values)
    exact = weight.astype(np.float64, copy=False)
    down, basis, scaled_right = _leading_triplets(exact, rank)
    count = channel_count(exact.shape[1], density, rank, align)
    if select == "l2":
        scores = _residuals(exact, scaled_right)
    elif select == "l1":
        scores = np.abs(exact - basis @ down).sum(axis=0)
    elif select == "leverage":
        singular = np.linalg.norm(scaled_right, axis=1, keepdims=True)
        right = np.divide(scaled_right, singular, where=singular > 0, out=np.zeros_like(down))
        scores = -np.square(right).sum(axis=0)
    else:
        scores = (random or np.random.default_rng(0)).random((exact.shape[1],))
    channels = np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int32)
    sparse = exact[:, channels]
    if values == "complement":
        sparse = sparse - basis @ down[:, channels]
    up = np.concatenate([basis, sparse], axis=1)
    return Factors(down.astype(weight.dtype, copy=False), up.astype(weight.dtype, copy=False), channels, rank)


def leading_pair(weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sqrt(S_r) V_r^T (rank x in) and U_r sqrt(S_r) (out x rank) of a float64 weight (out x in)."""
    down, basis, _ = _leading_triplets(weight, rank)
    return down, basis


def leading_directions(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return V_r^T (rank x in), U_r (out x rank) and S_r (rank,) of a float64 matrix (out x in).

    Directions beyond the matrix's own rank are zero.
    """
    down, up = leading_pair(matrix, rank)
    rows, columns = np.linalg.norm(down, axis=1), np.linalg.norm(up, axis=0)
    inverse = np.divide(1.0, rows, out=np.zeros(rank), where=rows > 0)
    return down * inverse[:, None], up * np.divide(1.0, columns, out=np.zeros(rank), where=columns > 0), rows * columns


def compose(factors: Factors, gamma: float) -> np.ndarray:
    """Return the dense weight (out x in) that a LOST layer without activation applies: the inverse of `decompose`.

    With `values="complement"`, every channel kept and gamma = 0.5, this is half the weight that was decomposed.
    """
    basis, sparse = factors.up[:, : factors.rank], factors.up[:, factors.rank :]
    weight = gamma * (basis @ factors.down)
    weight[:, factors.channels] += (1 - gamma) * sparse
    return weight


def _check(weight: np.ndarray, rank: int, density: float, select: str, values: str) -> None:
    if weight.ndim != 2 or weight.dtype not in (np.float32, np.float64):
        raise UserError(f"a weight of shape {weight.shape}, {weight.dtype}: expected a float32 or float64 matrix")
    if not 1 <= rank <= min(weight.shape):
        raise UserError(f"rank = {rank} for a matrix of shape {weight.shape}: expected 1 to {min(weight.shape)}")
    if not 0 < density <= 1:
        raise UserError(f"density = {density}: expected a share of the input channels, in (0, 1]")
    if select not in ("l2", "l1", "leverage", "random"):
        raise UserError(f"select = {select!r}: expected 'l2', 'l1', 'leverage' or 'random'")
    if values not in ("original", "complement"):
        raise UserError(f"values = {values!r}: expected 'original' or 'complement'")
    if not np.isfinite(weight).all():
        raise UserError("a weight with entries that are not finite can't be decomposed; check where it came from")


def _leading_triplets(weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sqrt(S) V^T (rank x in), U sqrt(S) (out x rank) and S V^T for the largest singular values, largest first.

    One side comes from the Gram matrix, the other from a product with the weight; nothing is divided by a singular
    value, so null directions of a rank-deficient weight stay harmless.
    """
    rows, columns = weight.shape
    wide = rows <= columns
    gram = weight @ weight.T if wide else weight.T @ weight
    vectors = leading_eigenvectors(gram, rank)
    product = weight.T @ vectors if wide else weight @ vectors  # V S or U S, one column a triplet
    singular = np.linalg.norm(product, axis=0)
    root = np.sqrt(singular)
    shared = product * np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    right, left = (shared, vectors * root) if wide else (vectors * root, shared)

    sign = np.where(right[np.abs(right).argmax(axis=0), np.arange(rank)] < 0, -1.0, 1.0)
    scaled_right = (product if wide else vectors * singular).T
    return (right * sign).T, left * sign, scaled_right


def _residuals(weight: np.ndarray, scaled_right: np.ndarray) -> np.ndarray:
    """Return ||W_comp e_j||^2 = ||W e_j||^2 - ||(S V^T) e_j||^2 for each channel j."""
    norms = np.einsum("ij,ij->j", weight, weight)
    residuals: np.ndarray = norms - np.einsum("ij,ij->j", scaled_right, scaled_right)
    residuals[residuals < _CAPTURED * norms] = 0.0
    return residuals
