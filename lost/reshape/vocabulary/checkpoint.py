"""Writing of a checkpoint whose model has another vocabulary."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from lost.checkpoint import Checkpoint
from lost.config import DType
from lost.interop.destination import check_destination
from lost.interop.rewrite import write_weights
from lost.interop.special_tokens import ends_of, with_ends
from lost.model.parameters import EMBEDDING, HEAD
from lost.reshape.vocabulary.rows import Rows
from lost.storage.tensors import PART_BYTES
from lost.tokenizer import Tokenizer


def write_with(
    source: Checkpoint,
    path: Path,
    tokenizer: Tokenizer,
    rows: Rows,
    dtype: DType | None = None,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
) -> Checkpoint:
    """Write weights with another tokenizer, and the rows for it; compare every array with what was meant.

    The optimizer's state isn't written, nor a validation loss: losses a token are of the old tokens. Nor are a teacher
    named any more, who predicts these, and further sets to evaluate, which hold them.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        tokenizer: the result's; the tokens that end a text are those that did before, as far as it has them.
        rows: for it.
        dtype: of the weights; None: unchanged.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.

    Raises:
        CheckpointError: something is at `path`, or the written arrays aren't the intended ones.
        StorageError: the disk refused.
    """
    check_destination(path, source.path, overwrite)
    config = source.config.replace("model", vocab_size=len(rows.old)).replace("teacher", path=None)
    config = config.replace("data", also_evaluate={})
    progress = replace(source.progress, validation_loss=None)
    weights, tokenizer = partial(_arrays, source, rows), with_ends(tokenizer, rows.moved(ends_of(source)))
    return write_weights(path, weights, config, progress, tokenizer, dtype, part_bytes)


def _arrays(source: Checkpoint, rows: Rows) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in source.parameters():
        yield name, rows.of(array) if name in (EMBEDDING, HEAD) else array
