"""Whether a checkpoint is whole: bytes as they were written, arrays that make one model and its state, sound values."""

from collections.abc import Iterator, Sequence

import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint
from lost.errors import LostError
from lost.optim import optimizer_of
from lost.storage.arrays import NamedArrays
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.utils.parsing import parse_json


def faults(found: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with a checkpoint, all of its files read.

    Where they hold what they should (`Checkpoint.faults`), also that values are finite and second moments not negative,
    and that config.json and the tokenizer are the run's.
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
    yield from _values(found.parameters())
    if found.progress.step and found.resumable:
        yield from _values(found.moments(), optimizer_of(found.config).never_negative)
    try:
        described = parse_json(read_bytes(found.path / checkpoint.CONFIG, DOCUMENT_BYTES))
        meant = checkpoint.model_description(found.config)
        if {**meant, **described} != meant:  # an older version's lacks the fields that came later
            yield f"{checkpoint.CONFIG} doesn't describe the model of {checkpoint.MANIFEST}"
    except (OSError, ValueError, TypeError) as error:
        yield f"{checkpoint.CONFIG} can't be read: {error}"
    found.tokenizer()


def _values(arrays: NamedArrays, never_negative: Sequence[str] = ()) -> Iterator[str]:
    for name, array in arrays:
        if not np.isfinite(array).all():
            yield f"{name} holds numbers that are not finite"
        elif name.rpartition(".")[2] in never_negative and (array < 0).any():
            yield f"{name} holds negative squares"
