"""Rewriting of checkpoints: in another type, without the optimizer state, in files of another size."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint, TrainState
from lost.config import Config, DType
from lost.errors import CheckpointError, UserError
from lost.interop.destination import check_destination
from lost.interop.special_tokens import own_tokenizer
from lost.model.parameters import Parameter
from lost.storage.arrays import NamedArrays
from lost.storage.tensors import PART_BYTES
from lost.tokenizer import Tokenizer

NUMPY = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def rewrite(
    source: Checkpoint,
    path: Path,
    dtype: DType | None = None,
    weights_only: bool = False,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
) -> Checkpoint:
    """Write `source` as the checkpoint `path`, and compare every array with the source's.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        dtype: of weights and moments, rounded to nearest; the configuration's `param_dtype` follows, and with
            bfloat16 also its `dtype` and, where weights alone are written, its optimizer. None: unchanged.
        weights_only: leave out the moments; training can't resume from the result.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.

    Raises:
        CheckpointError: something is at `path`, or the written arrays aren't the intended ones.
        StorageError: the disk refused.
        UserError: the moments are of an optimizer that doesn't take this type.
    """
    check_destination(path, source.path, overwrite)
    has_moments = not weights_only and bool(source.array_files(checkpoint.OPTIMIZER))
    config = follow(source.config, dtype, has_moments)

    def moments() -> NamedArrays:
        return cast(() if weights_only else source.moments(), dtype)

    def check(written: Checkpoint) -> None:
        compare(cast(source.parameters(), dtype), written.parameters())
        compare(moments(), written.moments())

    weights = cast(source.parameters(), dtype)
    return checkpoint.write(path, weights, moments(), config, source.progress, own_tokenizer(source), part_bytes, check)


def write_weights(
    path: Path,
    weights: Callable[[], NamedArrays],
    config: Config,
    progress: TrainState,
    tokenizer: Tokenizer,
    dtype: DType | None,
    part_bytes: int,
) -> Checkpoint:
    """Write weights without moments as the checkpoint `path`, and compare every array with what was meant.

    Args:
        path: a folder that doesn't exist yet, or is replaced.
        weights: yields them anew each time, for writing and for comparing.
        config: theirs, but for the type, which it follows.
        progress: theirs.
        tokenizer: theirs.
        dtype: of the weights; None: unchanged.
        part_bytes: start a new file once one holds this much.

    Raises:
        CheckpointError: the written arrays aren't the intended ones.
        StorageError: the disk refused.
    """

    def check(written: Checkpoint) -> None:
        compare(cast(weights(), dtype), written.parameters())

    follows = follow(config, dtype)
    return checkpoint.write(path, cast(weights(), dtype), (), follows, progress, tokenizer, part_bytes, check)


def cast(arrays: NamedArrays, dtype: DType | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays in another type, except indices."""
    for name, array in arrays:
        yield name, array.astype(NUMPY[dtype]) if dtype and array.dtype != np.int32 else array


def as_stored(arrays: NamedArrays, table: Mapping[str, Parameter]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield parameters in the types that a run stores them in."""
    for name, array in arrays:
        kept = table[name].dtype
        yield name, array if kept == "int32" else array.astype(NUMPY[kept])


def follow(config: Config, dtype: DType | None, has_moments: bool = False) -> Config:
    """Return the configuration for weights in another type.

    Args:
        config: theirs so far.
        dtype: the type; None: unchanged.
        has_moments: whether the optimizer's go along. Without them AdamW, which takes every type, stands in for one
            that doesn't.

    Raises:
        UserError: they do, of an optimizer that needs float32 weights.
    """
    if dtype is None:
        return config
    computed = "bfloat16" if dtype == "bfloat16" else config.train.compute_dtype
    changes = {"param_dtype": dtype, "frozen_dtype": None, "dtype": computed}
    try:
        return config.replace("train", **changes)
    except ValueError:
        name = config.optimizer.name
        if has_moments:
            raise UserError(
                f"--dtype {dtype}: optimizer.name = {name}, whose state goes along, needs float32 weights; expected "
                "float32 with it; add --weights-only, or leave --dtype out"
            ) from None
        return config.replace("optimizer", name="adamw").replace("train", **changes)


def compare(intended: NamedArrays, written: NamedArrays) -> None:
    """Check that written arrays equal the intended ones, byte by byte.

    Raises:
        CheckpointError: arrays differ.
    """
    expected, actual = _digests(intended), _digests(written)
    if differing := sorted(name for name in expected | actual if expected.get(name) != actual.get(name)):
        raise CheckpointError(
            f"{len(differing)} arrays, {differing[0]} among them, were not written correctly; remove the result and "
            "convert again, to another disk if this repeats"
        )


def _digests(arrays: NamedArrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (each.dtype.name, each.shape, hashlib.sha256(each.tobytes()).digest()) for name, each in arrays}
