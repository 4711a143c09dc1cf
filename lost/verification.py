"""Whether a checkpoint is whole: the bytes that were written, and arrays that make one model and its state."""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint
from lost.engine import MOMENTS, moment_shapes
from lost.errors import LostError
from lost.parameters import parameter_table, projections


def faults(found: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with a checkpoint, all of its files read.

    Bytes first; where they are as written, that every parameter and moment is there once with the shape and type that
    the configuration says, that values are finite, second moments not negative, channels ascending and in range, and
    that config.json and the tokenizer are the run's.
    """
    damaged = list(found.faults())
    yield from damaged
    if damaged:
        return
    try:
        yield from (f"{found.path}: {fault}" for fault in _content(found))
    except LostError as error:
        yield str(error)


def _content(found: Checkpoint) -> Iterator[str]:
    table, dtype = parameter_table(found.config), found.config.train.param_dtype
    shapes = {name: row.shape for name, row in table.items()}
    widths = {
        f"{each.name}.{suffix}": tensor.below
        for each in projections(found.config)
        for suffix, tensor in each.tensors().items()
        if tensor.integer
    }
    yield from _arrays(found.parameters(), shapes, dtype, widths)
    if found.progress.step and found.resumable:
        yield from _arrays(found.moments(), moment_shapes(found.config), dtype)
    described = json.loads((found.path / checkpoint.CONFIG).read_text())
    meant = checkpoint.model_description(found.config)
    if {**meant, **described} != meant:  # an older version's lacks the fields that came later
        yield f"{checkpoint.CONFIG} doesn't describe the model of {checkpoint.MANIFEST}"
    if (tokenizer := found.tokenizer()).fingerprint != found.tokenizer_fingerprint:
        yield f"{tokenizer.FILE} is not the tokenizer of the run"


def _arrays(
    arrays: Iterator[tuple[str, np.ndarray]],
    shapes: dict[str, tuple[int, ...]],
    dtype: str,
    widths: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield what is wrong with arrays; `widths` has what the numbers of a choice stay below, by its name."""
    missing = set(shapes)
    for name, array in arrays:
        if name not in missing:
            yield f"{name} is {'there twice' if name in shapes else 'no array of this model'}"
            continue
        missing.discard(name)
        wanted = "int32" if name in widths else dtype
        if array.shape != shapes[name] or array.dtype.name != wanted:
            yield f"{name} is {array.dtype.name} {array.shape}; expected {wanted} {shapes[name]}"
        elif name in widths:
            if (np.diff(array) <= 0).any() or array.min() < 0 or array.max() >= widths[name]:
                yield f"{name} doesn't hold ascending numbers below {widths[name]}"
        elif not np.isfinite(array).all():
            yield f"{name} holds numbers that are not finite"
        elif name.endswith(MOMENTS[1]) and (array < 0).any():
            yield f"{name} holds negative squares"
    if missing:
        yield f"{len(missing)} arrays are missing, {min(missing)} among them"
