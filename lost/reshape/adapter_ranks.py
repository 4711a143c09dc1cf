"""Ranks of adapters by layer: of one sum, each has what its inputs' directions explain (EVA, arXiv 2410.07170)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lost.config import Config
from lost.method.eigen import leading_eigenvectors
from lost.model.adapted import adapters
from lost.projections.adapters import Adapter
from lost.reshape.adapters import Measure, block_of


def unmoved(config: Config) -> list[Adapter]:
    """Return the layers between which ranks are to be moved: none once each has an override of its own."""
    moves = config.projection.rho > 1
    layers = [each for each in adapters(config) if moves and each.moves_ranks]
    return [] if all(each.name in config.projection.overrides for each in layers) else layers


def with_ranks(config: Config, measure: Measure) -> Config:
    """Return the configuration with an override for each layer that moves ranks: its own, with alpha in proportion.

    Directions of all layers' inputs are sorted by the share that each has in its layer's second moment, and as many are
    taken as all ranks add up to (section 3.3). A layer of which none is taken stays as it is.

    Args:
        config: with layers that are `unmoved`; of each at most `rho` times its rank are taken.
        measure: of the run's own data.
    """
    layers = unmoved(config)
    shares = _shares(config, layers, measure)
    order = [(-share, number) for number, each in enumerate(layers) for share in shares[each.name]]
    taken = [number for _, number in sorted(order)[: sum(each.settings.rank for each in layers)]]
    ranks = [taken.count(number) for number in range(len(layers))]
    return config.replace("projection", overrides=_overrides(config, layers, ranks))


def may_become(config: Config, overrides: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether overrides are what `with_ranks` makes of a configuration's own by some measurement.

    Args:
        config: with layers that are `unmoved`.
        overrides: of a run, in their order.
    """
    layers = unmoved(config)
    if any(each.name not in overrides for each in layers):
        return False
    ranks = [overrides[each.name].get("rank", 0) for each in layers]
    made = _overrides(config, layers, ranks)
    return list(made.items()) == list(overrides.items()) and sum(ranks) == sum(each.settings.rank for each in layers)


def _overrides(config: Config, layers: Sequence[Adapter], ranks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the configuration's overrides, and after them, as the last that matches counts, one for each layer.

    It has all that sets the layer apart from the section, as nothing of another one counts for it any more.
    """
    names, usual = {each.name for each in layers}, config.projection.model_dump()
    overrides = {pattern: own for pattern, own in config.projection.overrides.items() if pattern not in names}
    for layer, rank in zip(layers, ranks, strict=True):
        own = {key: value for key, value in layer.settings.model_dump().items() if value != usual[key]}
        moved = {**own, "kind": layer.settings.kind, "rank": rank, "alpha": layer.scale * rank}
        overrides[layer.name] = moved if rank else {"kind": "dense"}
    return overrides


def _shares(config: Config, layers: list[Adapter], measure: Measure) -> dict[str, np.ndarray]:
    """Return, for each layer, the shares of as many leading directions as it may have."""
    shares: dict[str, np.ndarray] = {}
    for block in dict.fromkeys(block_of(each.name) for each in layers):  # one at a time: moments are large
        beside = [each for each in layers if block_of(each.name) == block]
        moments = measure("inputs", [each.name for each in beside])
        for layer in beside:
            most = int(config.projection.rho * layer.settings.rank)
            count, moment = min(most, layer.in_features, layer.out_features), moments[layer.name]
            vectors = leading_eigenvectors(moment.copy(order="C"), count)
            shares[layer.name] = np.einsum("ik,ij,jk->k", vectors, moment, vectors, optimize=True) / np.trace(moment)
    return shares
