"""Inspection of a checkpoint's layers: how much of each weight the low rank holds, how much the kept channels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lost.config import Config
from lost.errors import CheckpointError
from lost.model.parameters import projections
from lost.projections import Projection
from lost.storage.arrays import NOT_FINITE, is_finite


@dataclass(frozen=True)
class LayerReport:
    """One projection.

    Attributes:
        name: such as `model.layers.0.mlp.up_proj`.
        kind: of projection.
        shape: (out, in).
        rank: of the low-rank pair; None without one.
        channels: kept input channels; None where a layer keeps none.
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


def _report(projection: Projection, values: Mapping[str, np.ndarray]) -> LayerReport:
    name, kind = projection.name, projection.settings.kind
    shape, spectrum = (projection.out_features, projection.in_features), projection.spectrum(values)
    if spectrum is None:
        return LayerReport(name, kind, shape, None, None, None, None, None, None, np.empty(0))
    return LayerReport(
        name=name,
        kind=kind,
        shape=shape,
        rank=spectrum.rank,
        channels=projection.channels or None,
        norm=spectrum.norm,
        spectrum=spectrum.leading_share,
        effective_rank=spectrum.effective_rank,
        sparse_share=spectrum.sparse_share,
        singular_values=spectrum.singular_values,
    )
