"""Spectra of layers' weights: how large a weight is, in how many directions, and how much of it the low rank holds."""

from dataclasses import dataclass

import numpy as np

_NEGLIGIBLE = 1e-14  # share of all energies below which one is rounding error


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the matrix that a layer applies, an activation taken as the identity.

    Attributes:
        energies: their squares, descending, as many as aren't zero by the sizes of the layer's parts.
        rank: of the low-rank pair; None without one.
        sparse_share: the sparse part's share of the sum of both parts' squared norms; None without one.
    """

    energies: np.ndarray
    rank: int | None = None
    sparse_share: float | None = None

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return self._total**0.5

    @property
    def leading_share(self) -> float | None:
        """Share of all energies that the leading `rank` ones hold; None without a rank."""
        return None if self.rank is None else float(self.energies[: self.rank].sum() / self._total)

    @property
    def effective_rank(self) -> float:
        """Exp of the entropy of the energies (Roy and Vetterli, 2007)."""
        shares = self.energies[self.energies > _NEGLIGIBLE * self._total] / self._total
        return float(np.exp(-(shares * np.log(shares)).sum()))

    @property
    def singular_values(self) -> np.ndarray:
        """Their roots, descending."""
        return np.sqrt(self.energies)

    @property
    def _total(self) -> float:
        return max(float(self.energies.sum()), 1e-300)


def energies_of(weight: np.ndarray) -> np.ndarray:
    """Return the squared singular values of a float64 matrix, descending."""
    rows, columns = weight.shape
    return _descending(weight @ weight.T if rows <= columns else weight.T @ weight)


def energies_of_product(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the squared singular values of up down, (out x n) and (n x in) float64, descending: n of them.

    They are the eigenvalues of a small symmetric matrix.
    """
    triangle: np.ndarray = np.linalg.qr(down.T, mode="r")  # type: ignore[assignment]
    return _descending(triangle @ (up.T @ up) @ triangle.T)


def share_of_sparse(sparse: np.ndarray, low: float) -> float:
    """Return the share that a sparse part's entries have in the squared norms of both, `low` being the other's."""
    return float(np.sum(sparse**2) / max(np.sum(sparse**2) + low, 1e-300))


def _descending(gram: np.ndarray) -> np.ndarray:
    return np.sort(np.maximum(np.linalg.eigvalsh(gram), 0.0))[::-1]
