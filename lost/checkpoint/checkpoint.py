"""A checkpoint on disk: a folder of safetensors sealed by a manifest, and how it is opened.

    step-00000500/  manifest.json  model-*.safetensors  optimizer-*.safetensors  config.json  tokenizer files

The manifest holds everything needed to resume the run, and the size and checksum of every other file. No pickle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lost.checkpoint.state import TrainState
from lost.config import Config
from lost.config.document import Document, problems
from lost.errors import CheckpointError
from lost.model.parameters import index_limits, parameter_table, shapes_of, vocabulary
from lost.optim import state_shapes
from lost.storage.arrays import fitting
from lost.storage.files import Seal, read_sealed_json
from lost.storage.nofollow import check_name
from lost.storage.tensors import read_tensors
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.utils.parsing import finite

MANIFEST = "manifest.json"
CONFIG = "config.json"
MODEL, OPTIMIZER = "model", "optimizer"
"""How the names of files of arrays begin."""
FORMAT = 1
_LATER = ("origin", "threads", "best", "noise", "teacher")  # fields that manifests didn't have at first


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest has been read."""

    path: Path
    config: Config
    progress: TrainState
    tokenizer_fingerprint: str
    files: dict[str, Seal]

    def parameters(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter; each of several processes some of them.

        Raises:
            CheckpointError: a file that can't be read, or an array that no model of this configuration has.
        """
        table = parameter_table(self.config)
        return fitting(read_tensors(self.array_files(MODEL), rank, world_size), shapes_of(table), index_limits(table))

    def moments(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the optimizer's moments, each of several processes some of them; none if it was written without them.

        Raises:
            CheckpointError: as `parameters`.
        """
        return fitting(read_tensors(self.array_files(OPTIMIZER), rank, world_size), state_shapes(self.config))

    @property
    def resumable(self) -> bool:
        """Whether a training can resume from it: it has moments, or needs none yet."""
        return not self.progress.has_moments or bool(self.array_files(OPTIMIZER))

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the run.

        Raises:
            CheckpointError: it is another one, or has ids that the model can't look up.
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

    def array_files(self, stem: str) -> list[Path]:
        """Return the files of arrays whose names begin so."""
        return [self.path / name for name in sorted(self.files) if name.startswith(f"{stem}-")]


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
        files = {check_name(name): _seal(entry) for name, entry in manifest["files"].items()}
        fields = {name: manifest[name] for name in TrainState.__dataclass_fields__ if name not in _LATER}
        fields |= {name: manifest.get(name) for name in _LATER}
        fields["validation_loss"] = finite(fields["validation_loss"])  # which could be NaN in earlier versions
        progress = TrainState.parse(fields)
        config = _config(path / MANIFEST, manifest["config"])
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


def _config(manifest: Path, values: Any) -> Config:
    """Return the configuration that a manifest holds.

    Raises:
        CheckpointError: it isn't one, or names what isn't known here.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        document = Document(str(manifest), {})
        said = "; ".join(document.explain(each)[:400] for each in islice(problems(error), 3))
        raise CheckpointError(
            f"{said}; expected a configuration that this version knows; if a newer one wrote it, or an extension is "
            "missing here, install that, else use another checkpoint"
        ) from None


def _seal(entry: Mapping[str, Any]) -> Seal:
    if type(entry["size"]) is not int or entry["size"] < 0:
        raise ValueError(f"size = {entry['size']!r:.40}")
    return Seal(size=entry["size"], sha256=str(entry["sha256"]))
