"""Inspection of a checkpoint's layers: how much of each weight the low rank holds, how much the kept channels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lost.config import Config
from lost.errors import CheckpointError
from lost.model.parameters import projections
from lost.projections import Projection
from lost.projections.sltrain import SlTrain
from lost.storage.arrays import NOT_FINITE, is_finite

# Kinds whose weight is a product, with few singular values; composed here, so that an activation may be inside.
_PAIRS = ("lost", "lowrank", "cola")


@dataclass(frozen=True)
class LayerReport:
    """One projection.

    Attributes:
        name: such as `model.layers.0.mlp.up_proj`.
        kind: of projection.
        shape: (out, in).
        rank: of the low-rank pair; None without one.
        channels: kept input channels; None except for LOST.
        norm: Frobenius norm of the composed weight, activations taken as the identity; None where none is known.
        spectrum: share of the composed weight's squared singular values that its leading `rank` ones hold; None
            without a rank, 1 for lowrank and cola.
        effective_rank: exp of the entropy of the squared singular values (Roy and Vetterli, 2007); None likewise.
        sparse_share: the sparse part's share of the sum of both parts' squared norms; None without one.
        singular_values: the composed weight's, descending, as many as aren't zero by its parts' sizes; empty likewise.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    rank: int | None
    channels: int | None
    norm: float | None
    spectrum: float | None
    effective_rank: float | None
    sparse_share: float | None
    singular_values: np.ndarray = field(repr=False)


def inspect_layers(config: Config, parameters: Mapping[str, np.ndarray]) -> Iterator[LayerReport]:
    """Yield a report for each projection; `parameters` by name, any float type.

    Raises:
        CheckpointError: a weight isn't finite.
    """
    for projection in projections(config):
        values = {}
        for suffix, tensor in projection.tensors().items():
            value = parameters[f"{projection.name}.{suffix}"]
            values[suffix] = value if tensor.integer else value.astype(np.float64)
            if not is_finite(value):
                raise CheckpointError(
                    f"{projection.name}.{suffix} {NOT_FINITE}, of which nothing can be said; use another checkpoint"
                )
        yield _report(projection, values)


def _is_one_matrix(projection: Projection) -> bool:
    """Whether a layer computes what one matrix does; else only its kind could say what it is but for an activation."""
    return not (projection.has_activation or projection.earlier_tokens)


def _report(projection: Projection, values: Mapping[str, np.ndarray]) -> LayerReport:
    kind, shape = projection.settings.kind, (projection.out_features, projection.in_features)
    rank, channels, sparse_share = None, None, None
    if kind not in _PAIRS and not _is_one_matrix(projection):
        return LayerReport(projection.name, kind, shape, None, None, None, None, None, None, np.empty(0))
    if isinstance(projection, SlTrain):
        rank = projection.settings.rank
        low = projection.scale * values["up"] @ values["down"]
        sparse_share = _share(values["values"], float(np.sum(low**2)))
        energy = _energy(projection.merged(values))
    elif kind not in _PAIRS:
        energy = _energy(projection.merged(values))
    else:
        rank, up, right = projection.settings.rank, values["up"], values["down"]
        if kind == "lost":
            channels, gamma = len(values["channels"]), values.get("gamma", projection.settings.gamma)
            basis, sparse = gamma * up[:, :rank], (1 - gamma) * up[:, rank:]
            selection = np.zeros((channels, shape[1]))
            selection[np.arange(channels), values["channels"]] = 1.0
            up, right = np.concatenate([basis, sparse], axis=1), np.concatenate([right, selection])
            sparse_share = _share(sparse, float(np.sum((basis.T @ basis) * (values["down"] @ values["down"].T))))
        # The squared singular values of up @ right are the eigenvalues of a small symmetric matrix.
        triangle: np.ndarray = np.linalg.qr(right.T, mode="r")  # type: ignore[assignment]
        inner = triangle @ (up.T @ up) @ triangle.T
        energy = np.linalg.eigvalsh(inner)
    energy = np.sort(np.maximum(energy, 0.0))[::-1]
    total = max(float(energy.sum()), 1e-300)
    shares = energy[energy > 1e-14 * total] / total
    return LayerReport(
        name=projection.name,
        kind=kind,
        shape=shape,
        rank=rank,
        channels=channels,
        norm=total**0.5,
        spectrum=None if rank is None else float(energy[:rank].sum() / total),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        sparse_share=sparse_share,
        singular_values=np.sqrt(energy),
    )


def _energy(weight: np.ndarray) -> np.ndarray:
    """Return the squared singular values."""
    return np.linalg.eigvalsh(weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight)


def _share(sparse: np.ndarray, low: float) -> float:
    return float(np.sum(sparse**2) / max(np.sum(sparse**2) + low, 1e-300))
