"""Integrity of a checkpoint: bytes as they were written, arrays that make one model and its state, sound values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lost.checkpoint.checkpoint import CONFIG, MANIFEST, MODEL, OPTIMIZER, Checkpoint, model_description
from lost.errors import CheckpointError, LostError
from lost.model.parameters import index_limits, parameter_table
from lost.optim import optimizer_of, state_shapes
from lost.storage.arrays import NOT_FINITE, NamedArrays, is_finite, wrong_indices
from lost.storage.files import digest_error
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.storage.tensors import Header, read_headers, read_tensors
from lost.utils.parsing import parse_object


def check_intact(checkpoint: Checkpoint) -> None:
    """Read every file of a checkpoint that is about to be used.

    Raises:
        CheckpointError: one isn't what was written, or holds what no engine may take.
    """
    if texts := list(problems(checkpoint, values=False)):
        raise CheckpointError(f"{'; '.join(texts)}; this checkpoint is damaged: use another, or restore the file")


def check_fits(checkpoint: Checkpoint) -> None:
    """Check that the arrays of a checkpoint that was just written are its model's; only those of indices are read.

    Raises:
        CheckpointError: they aren't, and no command would open it.
    """
    if texts := list(_arrays(checkpoint)):
        raise CheckpointError(
            f"{'; '.join(texts)}. What was written can't be opened again; remove it, and report that as a defect"
        )


def problems(checkpoint: Checkpoint, values: bool = True) -> Iterator[str]:
    """Yield what is wrong with a checkpoint, all of its files read: what the first stage that finds anything finds.

    1. The files' bytes are those that were written.
    2. The arrays are every parameter and moment, once, with the shape and type that the configuration says; indices
       ascend and are in range.
    3. Other values are finite, second moments not negative; config.json and the tokenizer are the run's.

    Args:
        checkpoint: opened.
        values: whether stage 3 is wanted: it says whether a file is worth keeping, not whether it is safe to load.
    """
    for stage in (_bytes, _arrays, _values) if values else (_bytes, _arrays):
        texts: list[str] = []
        try:
            texts.extend(stage(checkpoint))
        except LostError as error:
            texts.append(str(error))
        yield from texts
        if texts:
            return


def _bytes(checkpoint: Checkpoint) -> Iterator[str]:
    for name, expected in checkpoint.files.items():
        if fault := digest_error(checkpoint.path / name, expected):
            yield f"{checkpoint.path / name} {fault}"


def _arrays(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with the arrays, of which only those that hold indices are read."""
    config, model = checkpoint.config, checkpoint.array_files(MODEL)
    table = parameter_table(config)
    limits = index_limits(table)
    texts = [*_unlike(read_headers(model), {name: Header(row.dtype, row.shape) for name, row in table.items()})]
    if checkpoint.progress.has_moments and checkpoint.resumable:
        kept = {name: Header(config.train.param_dtype, shape) for name, shape in state_shapes(config).items()}
        texts += _unlike(read_headers(checkpoint.array_files(OPTIMIZER)), kept)
    if limits:
        for name, array in read_tensors(model):
            if wrong := wrong_indices(array, limits.get(name, 0)):
                texts.append(f"{name} {wrong}")
    yield from (f"{checkpoint.path}: {text}" for text in texts)


def _unlike(headers: Mapping[str, Header], wanted: Mapping[str, Header]) -> Iterator[str]:
    """Yield in what arrays differ from those of a model, as far as files say it before they are read."""
    for name, header in headers.items():
        if name not in wanted:
            yield f"{name} is no array of this model"
        elif header != wanted[name]:
            yield f"{name} is {header.dtype} {header.shape}; expected {wanted[name].dtype} {wanted[name].shape}"
    if missing := wanted.keys() - headers.keys():
        yield f"{len(missing)} arrays are missing, {min(missing)} among them"


def _values(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with numbers, with config.json and with the tokenizer."""
    texts = [*_unsound(checkpoint.parameters())]
    if checkpoint.progress.has_moments and checkpoint.resumable:
        texts += _unsound(checkpoint.moments(), optimizer_of(checkpoint.config).never_negative)
    try:
        described = parse_object(read_bytes(checkpoint.path / CONFIG, DOCUMENT_BYTES))
        meant = model_description(checkpoint.config)
        if _completed(described, meant) != meant:
            texts.append(f"{CONFIG} doesn't describe the model of {MANIFEST}")
    except (OSError, ValueError) as error:
        texts.append(f"{CONFIG} can't be read: {error}")
    yield from (f"{checkpoint.path}: {text}" for text in texts)
    checkpoint.tokenizer()


def _completed(described: dict[str, Any], meant: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json with the fields that came later than the version that wrote it."""
    whole = {**meant, **described}
    if isinstance(own := whole["projection"], dict):
        whole["projection"] = {**meant["projection"], **own}
    return whole


def _unsound(arrays: NamedArrays, never_negative: Sequence[str] = ()) -> Iterator[str]:
    for name, array in arrays:
        if not is_finite(array):
            yield f"{name} {NOT_FINITE}"
        elif name.rpartition(".")[2] in never_negative and (array < 0).any():
            yield f"{name} holds negative squares"
