"""Checkpoints: a folder of safetensors sealed by a manifest, written whole, verified before anything older goes.

    step-00000500/  manifest.json  model-*.safetensors  optimizer-*.safetensors  config.json  tokenizer files

The manifest holds everything a run needs to go on, and the size and checksum of every other file. No pickle anywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from lost.checkpoint.state import TrainState
from lost.config import Config
from lost.errors import CheckpointError
from lost.model.parameters import parameter_table, places_of, shapes_of, vocabulary
from lost.optim import state_shapes
from lost.storage.arrays import fitting, wrong_places
from lost.storage.files import (
    Seal,
    broken,
    read_sealed_json,
)
from lost.storage.tensors import Header, read_headers, read_tensors
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.utils.parsing import finite

MANIFEST = "manifest.json"
CONFIG = "config.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest has been read."""

    path: Path
    config: Config
    progress: TrainState
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
        return fitting(read_tensors(self._named("optimizer"), reader, readers), state_shapes(self.config))

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
            yield from _unlike(read_headers(self._named("optimizer")), state_shapes(self.config), dtype)
        if places:
            for name, array in read_tensors(self._named("model")):
                if wrong := wrong_places(array, places.get(name, 0)):
                    yield f"{name} {wrong}"


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
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path / MANIFEST} is not of checkpoint format {FORMAT}, the one this version reads")
    try:
        files = {str(name): _seal(entry) for name, entry in manifest["files"].items()}
        fields = {name: manifest[name] for name in TrainState.__dataclass_fields__ if name != "origin"}
        fields["origin"] = manifest.get("origin")  # which checkpoints didn't have at first
        fields["validation_loss"] = finite(fields["validation_loss"])  # which could be NaN in earlier versions
        progress = TypeAdapter(TrainState).validate_python(fields)
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


def model_description(config: Config) -> dict[str, Any]:
    """Return what config.json says: the model with Hugging Face's names, and its projections."""
    described = {"architectures": ["LostForCausalLM"], "model_type": "lost", **config.model.model_dump(mode="json")}
    return {**described, "projection": config.projection.model_dump(mode="json")}


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
