"""Checkpoints: a folder of safetensors sealed by a manifest, written whole, verified before anything older goes.

    step-00000500/  manifest.json  model-*.safetensors  optimizer-*.safetensors  config.json  tokenizer files

The manifest holds everything a run needs to go on, and the size and checksum of every other file. No pickle anywhere.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import TypeAdapter

import lost
from lost.config import Config
from lost.engine import NamedArrays, moment_shapes
from lost.errors import CheckpointError
from lost.files import (
    Seal,
    broken,
    flush,
    read_sealed_json,
    remove_folder,
    seal,
    sealed_json,
    sweep,
    whole_folder,
)
from lost.guard import GuardState
from lost.parameters import parameter_table
from lost.tensors import PART_BYTES, read_tensors, write_tensors
from lost.tokenizer import Tokenizer, load_tokenizer

MANIFEST = "manifest.json"
CONFIG = "config.json"
_FORMAT = 1
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        samples: samples consumed, the place in the data.
        tokens: tokens trained on.
        seconds: time spent training.
        data: fingerprint of the prepared data.
        validation_loss: mean negative log-likelihood in nats at this step, if it was measured.
        guard: what was skipped, and what is usual.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data: str = ""
    validation_loss: float | None = None
    guard: GuardState = field(default_factory=GuardState)

    @property
    def updates(self) -> int:
        """Optimizer steps that changed the weights."""
        return self.step - self.guard.skipped


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest has been read."""

    path: Path
    config: Config
    progress: Progress
    tokenizer_fingerprint: str
    files: dict[str, Seal]

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the files, reading all of them."""
        for name, expected in self.files.items():
            if fault := broken(self.path / name, expected):
                yield f"{self.path / name} {fault}"

    def verify(self) -> None:
        """Read every file.

        Raises:
            CheckpointError: one isn't what was written.
        """
        if faults := list(self.faults()):
            raise CheckpointError(f"{'; '.join(faults)}; this checkpoint is damaged: use another, or restore the file")

    def parameters(self, reader: int = 0, readers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter; of several readers each some."""
        return self._tensors("model", reader, readers)

    def moments(self, reader: int = 0, readers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the optimizer's moments, of several readers each some; none if it was written without them."""
        return self._tensors("optimizer", reader, readers)

    @property
    def resumable(self) -> bool:
        """Whether a training can go on from it: it has moments, or needs none yet."""
        return self.progress.step == 0 or any(name.startswith("optimizer-") for name in self.files)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the run."""
        return load_tokenizer(self.path)

    def _tensors(self, stem: str, reader: int, readers: int) -> Iterator[tuple[str, np.ndarray]]:
        files = [self.path / name for name in sorted(self.files) if name.startswith(f"{stem}-")]
        return read_tensors(files, reader, readers)


def write(
    path: Path,
    parameters: NamedArrays,
    moments: NamedArrays,
    config: Config,
    progress: Progress,
    tokenizer: Tokenizer,
    part_bytes: int = PART_BYTES,
) -> Checkpoint:
    """Write a checkpoint, in the place of one that is there already.

    Raises:
        StorageError: the disk refused; nothing older was touched.
        CheckpointError: what was read back is not what was written.
    """
    with whole_folder(path, replace=True) as partial:
        files = write_arrays(partial, parameters, moments, part_bytes)
        write_manifest(partial, files, config, progress, tokenizer)
    return open_checkpoint(path)


def write_arrays(
    partial: Path,
    parameters: NamedArrays,
    moments: NamedArrays,
    part_bytes: int = PART_BYTES,
    first_rows: Mapping[str, int] = MappingProxyType({}),
    worker: str = "",
) -> dict[str, Seal]:
    """Write arrays to disk and read them back.

    Args:
        partial: a folder that isn't a checkpoint yet.
        parameters: of the model, or some rows of them.
        moments: the optimizer's.
        part_bytes: size of a file.
        first_rows: where rows begin, by name, where an array isn't whole.
        worker: what tells file names of several writers apart.

    Returns:
        Each file's seal.

    Raises:
        OSError: the disk refused.
        CheckpointError: what was read back is not what was written.
    """
    files = write_tensors(partial, f"model{worker}", parameters, part_bytes, first_rows)
    files |= write_tensors(partial, f"optimizer{worker}", moments, part_bytes, first_rows)
    for name, expected in files.items():
        flush(partial / name)
        if fault := broken(partial / name, expected):
            raise CheckpointError(f"{partial / name} {fault}, right after it was written: don't trust this disk")
    return files


def write_manifest(
    partial: Path, files: Mapping[str, Seal], config: Config, progress: Progress, tokenizer: Tokenizer
) -> None:
    """Make a checkpoint of a folder in which all arrays stand."""
    contents, files = {CONFIG: _json(model_description(config)), **tokenizer.files}, dict(files)
    for name, content in contents.items():
        (partial / name).write_bytes(content)
        files[name] = seal(content)
    manifest = {
        "format": _FORMAT,
        "lost": lost.__version__,
        "seed": config.train.seed,
        **asdict(progress),
        "tokenizer": tokenizer.fingerprint,
        "config": config.model_dump(mode="json"),
        "files": files,
    }
    (partial / MANIFEST).write_bytes(sealed_json(manifest))


def array_bytes(config: Config) -> int:
    """Return the bytes that a checkpoint's arrays take."""
    table, width = parameter_table(config), {"float32": 4, "bfloat16": 2}[config.train.param_dtype]
    moments = sum(math.prod(shape) for shape in moment_shapes(config).values())
    weights = sum(row.size * (width if row.trained else 4) for row in table.values())
    return weights + moments * width


def model_description(config: Config) -> dict[str, Any]:
    """Return what config.json says: the model with Hugging Face's names, and its projections."""
    described = {"architectures": ["LostForCausalLM"], "model_type": "lost", **config.model.model_dump(mode="json")}
    return {**described, "projection": config.projection.model_dump(mode="json")}


def place(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}"


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest; its files are not read yet.

    Raises:
        CheckpointError: there is no manifest, or not one that can be trusted.
    """
    try:
        manifest = read_sealed_json(path / MANIFEST)
    except OSError:
        raise CheckpointError(f"{path} has no readable {MANIFEST}; expected a folder written by `lost train`") from None
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}; use another checkpoint") from None
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{path / MANIFEST} is not of checkpoint format {_FORMAT}, the one this version reads")
    try:
        files = {str(name): Seal(size=int(s["size"]), sha256=str(s["sha256"])) for name, s in manifest["files"].items()}
        fields = {name: manifest[name] for name in Progress.__dataclass_fields__}
        progress = TypeAdapter(Progress).validate_python(fields)
        config = Config.model_validate(manifest["config"])
        fingerprint = str(manifest["tokenizer"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path / MANIFEST} is incomplete or damaged ({error!r}); use another checkpoint"
        ) from None
    for name in files:
        if Path(name).name != name or name in ("", "..", MANIFEST):
            raise CheckpointError(f"{path / MANIFEST} names {name!r}, a file outside its folder; don't trust it")
    return Checkpoint(path, config, progress, fingerprint, files)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, finished or not."""
    return (
        sorted(path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
        if folder.exists()
        else []
    )


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint all of whose files are what was written, and what is wrong with newer ones."""
    rejected = []
    for path in reversed(checkpoints(folder)):
        try:
            checkpoint = open_checkpoint(path)
            checkpoint.verify()
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        return checkpoint, rejected
    return None, rejected


def prune(folder: Path, keep_last: int, keep_every: int, newest: int) -> None:
    """Remove checkpoints that are neither among the last, nor the best, nor at a multiple of `keep_every` steps.

    Args:
        folder: holds the checkpoints.
        keep_last: how many of the last to keep.
        keep_every: 0, or the multiple whose checkpoints stay.
        newest: the step just saved; later ones are leftovers of another life of the run, and neither count nor go.
    """
    sweep(folder)
    found = []
    for path in checkpoints(folder):
        try:
            found.append(open_checkpoint(path))
        except CheckpointError:
            continue  # not ours to judge, so not ours to remove
    found = [each for each in found if each.progress.step <= newest]
    measured = [each for each in found if each.progress.validation_loss is not None]
    best = min(measured, key=lambda each: each.progress.validation_loss or 0.0, default=None)
    for each in found[:-keep_last]:
        if each is not best and not (keep_every and each.progress.step % keep_every == 0):
            remove_folder(each.path)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
