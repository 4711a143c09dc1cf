"""Growth of one projection: more outputs, more inputs, a larger rank, more kept channels or entries.

New columns of `up` are zero, those of new channels too, and new entries: they have no effect yet, and a gradient at
once.
"""

from collections.abc import Callable, Mapping

import numpy as np

from lost.errors import UserError
from lost.projections import Projection
from lost.projections.sltrain import SlTrain
from lost.reshape.grow.copies import Array, Growth, copies_of
from lost.utils.randomness import generator

RANKED = ("lost", "cola", "lowrank", "sltrain")
"""Kinds with a low-rank pair."""
SPARSE = ("lost", "sltrain")
"""Kinds that keep a share, `density`, of something."""
OUTPUTS = ("weight", "up", "values", "bias")
"""Tensors of which a projection's outputs are multiples, all together."""


def grown_layer(
    old: Projection,
    new: Projection,
    values: Mapping[str, Array],
    growth: Growth,
    rows: Callable[[Projection], Array],
    seed: int,
) -> dict[str, Array]:
    """Return the tensors of a grown projection, by suffix.

    Args:
        old: the projection.
        new: what it becomes.
        values: tensors of `old` by suffix, or moments of some of them; channels and indices always.
        growth: of the values.
        rows: returns `down` of a projection, whose last rows become those that `old` doesn't have.
        seed: of the places of new channels and entries.

    Raises:
        UserError: its kind isn't one that is known here, or its copies need more entries than it keeps.
    """
    if old.tensors() == new.tensors():
        return dict(values)
    if old.settings.kind not in (*RANKED, "dense"):
        raise UserError(
            f"{old.name} is of kind {old.settings.kind}, and only {', '.join(RANKED)} and dense layers are known to "
            "grow; expected more layers alone; leave the other sizes out"
        )
    source = copies_of(old.out_features, new.out_features)
    rank, grown = old.settings.rank, dict[str, Array]()
    for suffix, array in values.items():
        if suffix == "weight":
            grown[suffix] = growth.inputs(growth.outputs(array, source), new.in_features)
        elif suffix == "bias":
            grown[suffix] = growth.outputs(array, source)
        elif suffix == "down":
            wide = growth.inputs(array, new.in_features)
            more = [rows(new)[rank:].astype(array.dtype)] if new.settings.rank > rank else []
            grown[suffix] = np.concatenate([wide, *more])
        elif suffix == "conv":
            taps = array.reshape(-1, rank)
            grown[suffix] = np.pad(taps, [(0, 0), (0, new.settings.rank - rank)]).reshape(-1)
        elif suffix == "up":
            grown[suffix] = _placed(old, new, growth.outputs(array, source), values, seed)
        elif suffix == "channels":
            grown[suffix] = _channels(old, new, array, seed)
        elif suffix == "values":
            places, taken, origin = _entries(old, new, values["indices"], seed)
            grown[suffix] = np.zeros(len(places), array.dtype)
            grown[suffix][np.searchsorted(places, taken)] = growth.outputs(array, origin)
        elif suffix == "indices":
            grown[suffix] = _entries(old, new, array, seed)[0]
        else:  # gamma
            grown[suffix] = array
    return grown


def _placed(old: Projection, new: Projection, up: Array, values: Mapping[str, Array], seed: int) -> Array:
    """Return `up` (out x (rank + k)) with zeros for what its columns don't read yet."""
    rank = new.settings.rank
    grown = np.zeros((len(up), new.tensors()["up"].shape[1]), up.dtype)
    grown[:, : old.settings.rank] = up[:, : old.settings.rank]
    if "channels" in values:
        kept = np.searchsorted(_channels(old, new, values["channels"], seed), values["channels"])
        grown[:, rank + kept] = up[:, old.settings.rank :]
    return grown


def _channels(old: Projection, new: Projection, channels: Array, seed: int) -> Array:
    """Return the old channels, of the first copy of the inputs, and others at random."""
    others = np.setdiff1d(np.arange(new.in_features), channels)
    count = new.tensors()["channels"].shape[0] - len(channels)
    chosen = generator(seed, f"{new.name}.channels grown").choice(others, count, replace=False)
    return np.sort(np.concatenate([channels, chosen])).astype(np.int32)


def _entries(old: Projection, new: Projection, indices: Array, seed: int) -> tuple[Array, Array, Array]:
    """Return all places of sltrain's entries; among them those with a value, and whose each is."""
    assert isinstance(new, SlTrain)
    row, column = np.divmod(indices.astype(np.int64), old.in_features)
    copies = range(-(-new.out_features // old.out_features))
    moved = np.concatenate([row + number * old.out_features for number in copies])
    there = np.flatnonzero(moved < new.out_features)
    origin = there % len(indices)
    taken = moved[there] * new.in_features + column[origin]
    if len(taken) > new.kept:
        raise UserError(
            f"{new.name}: copies of its outputs take {len(taken)} sparse entries, and of its new shape sltrain keeps "
            f"{new.kept}; expected whole multiples of its outputs, or a larger density; grow density too, by a little"
        )
    drawn = generator(seed, f"{new.name}.indices grown").choice(
        new.in_features * new.out_features, new.kept, replace=False
    )
    others = drawn[~np.isin(drawn, taken)][: new.kept - len(taken)]
    return np.sort(np.concatenate([taken, others])).astype(np.int32), taken, origin
