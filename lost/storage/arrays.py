"""Checks of named arrays before a model loads them: names, shapes, types, indices in range, numbers that are finite.

With an index beyond a layer's width a backend may read memory out of bounds, so none is passed on.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from lost.errors import CheckpointError

NamedArrays = Iterable[tuple[str, np.ndarray]]
FLOATS = ("float32", "bfloat16")
NOT_FINITE = "holds numbers that are not finite"
_NONE: Mapping[str, int] = MappingProxyType({})


def fitting(
    arrays: NamedArrays, shapes: Mapping[str, tuple[int, ...]], below: Mapping[str, int] = _NONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays that fit: each name once, with its shape, a type that backends support, and indices in range.

    Args:
        arrays: some of those that `shapes` lists, or all.
        shapes: by name.
        below: for arrays of indices (int32, ascending and distinct, from 0), their limit, by name.

    Raises:
        CheckpointError: an array is unknown, duplicated, or doesn't fit.
    """
    seen = set()
    for name, array in arrays:
        if shapes.get(name) != array.shape or name in seen:
            expected = f"{shapes[name]}" if name in shapes else "no such name"
            problem = "is there twice" if name in seen else f"has shape {array.shape}"
            raise CheckpointError(f"{name} {problem}; this model has {expected}: not of this run")
        if wrong := wrong_type(array.dtype.name, name in below) or wrong_indices(array, below.get(name, 0)):
            raise CheckpointError(f"{name} {wrong}; don't trust it, use another checkpoint")
        seen.add(name)
        yield name, array


def check_arrays(
    arrays: NamedArrays, shapes: Mapping[str, tuple[int, ...]], below: Mapping[str, int] = _NONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays that fit, as `fitting`, and check that they are finite and that none is missing.

    Raises:
        CheckpointError: an array is missing, unknown, duplicated, doesn't fit, or has an entry that is not finite: no
            loss, no token and no step comes of it.
    """
    missing = set(shapes)
    for name, array in fitting(arrays, shapes, below):
        if not is_finite(array):
            raise CheckpointError(f"{name} {NOT_FINITE}; expected a model's weights; use another checkpoint")
        missing.discard(name)
        yield name, array
    if missing:
        raise CheckpointError(
            f"{len(missing)} arrays are missing, {min(missing)} among them: incomplete, or of another run"
        )


def is_finite(array: np.ndarray) -> bool:
    """Return whether all entries are finite."""
    return bool(np.isfinite(array).all())


def wrong_type(dtype: str, indices: bool) -> str:
    """Return what is wrong with an array's type, or ""."""
    allowed = ("int32",) if indices else FLOATS
    return "" if dtype in allowed else f"is {dtype}; expected {' or '.join(allowed)}"


def wrong_indices(array: np.ndarray, below: int) -> str:
    """Return what is wrong with indices (k,), or ""; `below` is 0 for arrays that hold other values."""
    if below and array.size and ((array[1:] <= array[:-1]).any() or array[0] < 0 or array[-1] >= below):
        return f"doesn't hold ascending numbers below {below}"
    return ""


class Digest:
    """SHA-256 of a stream of arrays: names, types, shapes and bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def passing(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays unchanged."""
        for name, array in arrays:
            self._hash.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            self._hash.update(array.tobytes())
            yield name, array

    @property
    def hexadecimal(self) -> str:
        """The digest of all arrays so far."""
        return self._hash.hexdigest()


def digest_of(arrays: NamedArrays) -> str:
    """Return the digest of all arrays, read one by one."""
    digest = Digest()
    for _ in digest.passing(arrays):
        pass
    return digest.hexadecimal
