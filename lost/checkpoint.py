"""Checkpoints: a folder of safetensors sealed by a manifest, written whole, verified before anything older goes.

    step-00000500/  manifest.json  model-*.safetensors  optimizer-*.safetensors  config.json  tokenizer files

The manifest holds everything a run needs to go on, and the size and checksum of every other file. No pickle anywhere.
"""

import json
import math
import os
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
from lost.errors import CheckpointError
from lost.model.parameters import parameter_table, places_of, shapes_of, vocabulary
from lost.optim.moments import moment_shapes
from lost.optim.skip_step import GuardState
from lost.storage.arrays import NamedArrays, fitting, wrong_places
from lost.storage.files import (
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
from lost.storage.nofollow import check_folder, is_folder, write_new
from lost.storage.tensors import PART_BYTES, Header, read_headers, read_tensors, write_tensors
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.utils.parsing import finite

MANIFEST = "manifest.json"
CONFIG = "config.json"
_FORMAT = 1
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Origin:
    """Where a run's first weights come from.

    Attributes:
        path: of the checkpoint or folder, as it was then.
        step: of the run that it belongs to; None: no run's.
        fingerprint: SHA-256 of the arrays.
    """

    path: str
    step: int | None
    fingerprint: str


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
        origin: where the first weights come from; None: they are initial values.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data: str = ""
    validation_loss: float | None = None
    guard: GuardState = field(default_factory=GuardState)
    origin: Origin | None = None

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
        """Yield what is wrong with the files, reading all of them: with their bytes, else with what they hold.

        What they hold is every parameter and moment, once, with the shape and type that the configuration says, and of
        those that hold places ascending ones in range. Other values are not looked at.
        """
        damaged = False
        for name, expected in self.files.items():
            if fault := broken(self.path / name, expected):
                damaged = True
                yield f"{self.path / name} {fault}"
        if not damaged:
            try:
                yield from (f"{self.path}: {fault}" for fault in self._misfits())
            except CheckpointError as error:
                yield str(error)

    def verify(self) -> None:
        """Read every file.

        Raises:
            CheckpointError: one isn't what was written, or holds what no engine may take.
        """
        if faults := list(self.faults()):
            raise CheckpointError(f"{'; '.join(faults)}; this checkpoint is damaged: use another, or restore the file")

    def parameters(self, reader: int = 0, readers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter; of several readers each some.

        Raises:
            CheckpointError: a file that can't be read, or an array that no model of this configuration has.
        """
        table = parameter_table(self.config)
        return fitting(read_tensors(self._named("model"), reader, readers), shapes_of(table), places_of(table))

    def moments(self, reader: int = 0, readers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the optimizer's moments, of several readers each some; none if it was written without them.

        Raises:
            CheckpointError: as `parameters`.
        """
        return fitting(read_tensors(self._named("optimizer"), reader, readers), moment_shapes(self.config))

    @property
    def resumable(self) -> bool:
        """Whether a training can go on from it: it has moments, or needs none yet."""
        return self.progress.step == 0 or any(name.startswith("optimizer-") for name in self.files)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the run.

        Raises:
            CheckpointError: what stands there is another one, or has ids that the model can't look up.
            DataError: there is none.
        """
        tokenizer, entries = load_tokenizer(self.path), vocabulary(self.config)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise CheckpointError(
                f"{self.path / tokenizer.FILE} is not the tokenizer of the run; restore it, or use another checkpoint"
            )
        if tokenizer.vocab_size > entries:
            raise CheckpointError(
                f"{self.path / tokenizer.FILE} has ids up to {tokenizer.vocab_size - 1}; expected less than "
                f"{entries}, the model's vocabulary; don't trust it, use another checkpoint"
            )
        return tokenizer

    def _named(self, stem: str) -> list[Path]:
        """Return the files of arrays whose names begin so."""
        return [self.path / name for name in sorted(self.files) if name.startswith(f"{stem}-")]

    def _misfits(self) -> Iterator[str]:
        """Yield what is wrong with the arrays, of which only those that hold places are read."""
        table, dtype = parameter_table(self.config), self.config.train.param_dtype
        yield from _unlike(read_headers(self._named("model")), shapes_of(table), dtype, places := places_of(table))
        if self.progress.step and self.resumable:
            yield from _unlike(read_headers(self._named("optimizer")), moment_shapes(self.config), dtype)
        if places:
            for name, array in read_tensors(self._named("model")):
                if wrong := wrong_places(array, places.get(name, 0)):
                    yield f"{name} {wrong}"


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
        write_new(partial / name, content)
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
    write_new(partial / MANIFEST, sealed_json(manifest))


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
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {MANIFEST}; expected a folder written by `lost train`") from None
    except OSError as error:
        raise CheckpointError(
            f"{path / MANIFEST} can't be read: {error.strerror}; expected what `lost train` wrote; use another"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}; use another checkpoint") from None
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{path / MANIFEST} is not of checkpoint format {_FORMAT}, the one this version reads")
    try:
        files = {str(name): _seal(entry) for name, entry in manifest["files"].items()}
        fields = {name: manifest[name] for name in Progress.__dataclass_fields__ if name != "origin"}
        fields["origin"] = manifest.get("origin")  # which checkpoints didn't have at first
        fields["validation_loss"] = finite(fields["validation_loss"])  # which could be NaN in earlier versions
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
    try:
        check_folder(folder)
        names = os.listdir(folder) if is_folder(folder) else []
    except OSError as error:
        raise CheckpointError(f"{folder} can't be read: {error.strerror}; expected a folder of checkpoints") from None
    return [folder / name for name in sorted(names) if _NAME.fullmatch(name) and is_folder(folder / name)]


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

    One that was saved while updates were being left out doesn't count, and goes once a good one follows it.

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
    good = [each for each in found if not each.progress.guard.in_a_row]
    measured = [each for each in good if each.progress.validation_loss is not None]
    best = min(measured, key=lambda each: each.progress.validation_loss or 0.0, default=None)
    for each in good[:-keep_last]:
        if each is not best and not (keep_every and each.progress.step % keep_every == 0):
            remove_folder(each.path)
    for each in found:  # saved while updates were being left out: no reason for a good one to go
        if each not in good and good and each.progress.step < good[-1].progress.step:
            remove_folder(each.path)


def _seal(entry: Mapping[str, Any]) -> Seal:
    if type(entry["size"]) is not int or entry["size"] < 0:
        raise ValueError(f"size = {entry['size']!r:.40}")
    return Seal(size=entry["size"], sha256=str(entry["sha256"]))


def _unlike(
    found: Mapping[str, Header],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    places: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield in what arrays differ from those of a model, as far as files say it before they are read."""
    for name, header in found.items():
        wanted = "int32" if name in places else dtype
        if name not in shapes:
            yield f"{name} is no array of this model"
        elif header != Header(wanted, shapes[name]):
            yield f"{name} is {header.dtype} {header.shape}; expected {wanted} {shapes[name]}"
    if missing := shapes.keys() - found.keys():
        yield f"{len(missing)} arrays are missing, {min(missing)} among them"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
