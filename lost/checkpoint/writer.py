"""Writing of a checkpoint: arrays first, then the manifest that seals them."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lost
from lost.checkpoint.checkpoint import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    Checkpoint,
    model_description,
    open_checkpoint,
)
from lost.checkpoint.state import TrainState
from lost.config import DTYPE_BYTES, Config
from lost.model.parameters import parameter_table
from lost.optim import state_shapes
from lost.storage.arrays import NamedArrays
from lost.storage.files import Seal, atomic_dir, seal, sealed_json
from lost.storage.nofollow import resolved, write_new
from lost.storage.tensors import PART_BYTES, write_tensors
from lost.tokenizer import Tokenizer


def write(
    path: Path,
    parameters: NamedArrays,
    moments: NamedArrays,
    config: Config,
    progress: TrainState,
    tokenizer: Tokenizer,
    part_bytes: int = PART_BYTES,
    check: Callable[[Checkpoint], None] = lambda _: None,
) -> Checkpoint:
    """Write a checkpoint; one that is there already is replaced.

    Args:
        path: its folder.
        parameters: by name.
        moments: by name; none: weights only.
        config: of the run.
        progress: of the run.
        tokenizer: of the run.
        part_bytes: start a new file once one holds this much.
        check: is shown what was written, before it takes its place, and may refuse it.

    Raises:
        StorageError: the disk refused; nothing older was touched.
        CheckpointError: what was read back is not what was written.
    """
    with atomic_dir(path, replace=True) as partial:
        files = write_tensors(partial, MODEL, parameters, part_bytes)
        files |= write_tensors(partial, OPTIMIZER, moments, part_bytes)
        write_manifest(partial, files, config, progress, tokenizer)
        check(open_checkpoint(partial))
    return open_checkpoint(resolved(path))  # as it was written: a path may lead through a folder that isn't there


def write_manifest(
    partial: Path, files: Mapping[str, Seal], config: Config, progress: TrainState, tokenizer: Tokenizer
) -> None:
    """Make a checkpoint of a folder in which all arrays stand."""
    contents, files = {CONFIG: _json(model_description(config)), **tokenizer.files}, dict(files)
    for name, content in contents.items():
        write_new(partial / name, content)
        files[name] = seal(content)
    manifest = {
        "format": FORMAT,
        "lost": lost.__version__,
        "seed": config.train.seed,
        **asdict(progress),
        "tokenizer": tokenizer.fingerprint,
        "config": config.model_dump(mode="json"),
        "files": files,
    }
    write_new(partial / MANIFEST, sealed_json(manifest))


def array_bytes(config: Config) -> int:
    """Return the bytes that a checkpoint's arrays take."""
    width = DTYPE_BYTES[config.train.param_dtype]
    moments = sum(math.prod(shape) for shape in state_shapes(config).values())
    return sum(row.bytes for row in parameter_table(config).values()) + moments * width


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
