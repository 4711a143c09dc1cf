"""Named arrays on their way into a model: of its shapes and types, and with numbers that its layers can index with.

A backend may read memory out of bounds with a channel beyond a layer's width, so none gets that far.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from lost.errors import CheckpointError

NamedArrays = Iterable[tuple[str, np.ndarray]]
FLOATS = ("float32", "bfloat16")
_NONE: Mapping[str, int] = MappingProxyType({})


def fitting(
    arrays: NamedArrays, shapes: Mapping[str, tuple[int, ...]], below: Mapping[str, int] = _NONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Pass on arrays that fit: each name once, with its shape, a type that backends know, and places in range.

    Args:
        arrays: which; some of those that `shapes` lists, or all.
        shapes: by name.
        below: of the arrays that hold places (int32, ascending and distinct, from 0), what these stay below.

    Raises:
        CheckpointError: one is unknown, there twice, or doesn't fit.
    """
    seen = set()
    for name, array in arrays:
        if shapes.get(name) != array.shape or name in seen:
            expected = f"{shapes[name]}" if name in shapes else "no such name"
            found = "is there twice" if name in seen else f"has shape {array.shape}"
            raise CheckpointError(f"{name} {found}; this model has {expected}: not of this run")
        if wrong := wrong_type(array.dtype.name, name in below) or wrong_places(array, below.get(name, 0)):
            raise CheckpointError(f"{name} {wrong}; don't trust it, use another checkpoint")
        seen.add(name)
        yield name, array


def check_arrays(
    arrays: NamedArrays, shapes: Mapping[str, tuple[int, ...]], below: Mapping[str, int] = _NONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Pass on arrays that fit, as in `fitting`, and see that none is missing.

    Raises:
        CheckpointError: one is missing, unknown, there twice, or doesn't fit.
    """
    missing = set(shapes)
    for name, array in fitting(arrays, shapes, below):
        missing.discard(name)
        yield name, array
    if missing:
        raise CheckpointError(
            f"{len(missing)} arrays are missing, {min(missing)} among them: not whole, or another run's"
        )


def wrong_type(dtype: str, places: bool) -> str:
    """Say what is wrong with an array's type, or nothing."""
    allowed = ("int32",) if places else FLOATS
    return "" if dtype in allowed else f"is {dtype}; expected {' or '.join(allowed)}"


def wrong_places(array: np.ndarray, below: int) -> str:
    """Say what is wrong with places (k,), or nothing; so where `below` is 0, which means that it holds none."""
    if below and array.size and ((array[1:] <= array[:-1]).any() or array[0] < 0 or array[-1] >= below):
        return f"doesn't hold ascending numbers below {below}"
    return ""
