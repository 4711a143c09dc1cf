"""Weights that a new run begins with, taken from elsewhere: `lost train --init-from`.

They become the run's checkpoint of step 0, so that from there on it is a run like any other: it resumes without the
place that they came from, and every worker reads its part.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lost import checkpoint
from lost.checkpoint import MANIFEST, Checkpoint, Origin, TrainState, checkpoints, open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import CheckpointError, ConfigError, DataError, UserError
from lost.interop.rewrite import cast
from lost.model.load import load_config
from lost.model.parameters import parameter_table, places_of, shapes_of
from lost.storage.arrays import NamedArrays, check_arrays
from lost.storage.files import atomic_dir, replace_text, storage
from lost.storage.tensors import write_tensors
from lost.tokenizer import Tokenizer
from lost.training.run_dir import CONFIG, LATEST, config_file, differences, find_checkpoint

# What the run's model may differ in from the weights': the length of the context, and what only initial values follow.
_FREE = {
    *(f"model.{key}" for key in ("max_position_embeddings", "rope_theta", "initializer_range")),
    *(f"projection.{key}" for key in ("init_std", "start", "select", "values")),
}


@dataclass(frozen=True)
class Source:
    """A model to begin with.

    Attributes:
        path: the checkpoint, or the folder of another tool.
        step: of the training that made it; None: unknown.
        config: its model and projections, and how it was trained.
        tokenizer: the one that its ids mean.
        parameters: yields its arrays by name.
        remarks: what a user should know of how it was read.
    """

    path: Path
    step: int | None
    config: Config
    tokenizer: Tokenizer
    parameters: Callable[[], NamedArrays]
    remarks: Sequence[str] = ()


def open_source(path: Path) -> Source:
    """Open a checkpoint, the newest whole one of a run, or a Hugging Face folder.

    Raises:
        CheckpointError: it is none of these, or damaged.
    """
    ours = (path / MANIFEST).exists() or (path / "checkpoints").exists()
    if not ours and (path / checkpoint.CONFIG).exists():
        from lost.interop.from_hf import open_folder

        folder = open_folder(path)
        return Source(path.resolve(), None, folder.config, folder.tokenizer, folder.parameters, folder.remarks)
    if not ours:
        raise CheckpointError(
            f"--init-from {path}: there are no weights; expected a run, a checkpoint, or a folder with a Hugging Face "
            f"model ({checkpoint.CONFIG} and safetensors); name one"
        )
    found, rejected = find_checkpoint(path)
    remarks = [f"passed over: {reason}" for reason in rejected]
    return Source(found.path.resolve(), found.progress.step, found.config, found.tokenizer(), found.parameters, remarks)


def beginning(path: Path, folder: Path, fresh: bool, configured: bool) -> tuple[Config, Source | None]:
    """Return the configuration that a run follows where its own says nothing, and what it begins with.

    Args:
        path: what --init-from names.
        folder: the run folder; where it has checkpoints they are gone on from, and the source isn't opened.
        fresh: whether they are not.
        configured: whether the run has a configuration of its own.

    Raises:
        CheckpointError: there are no weights.
        ConfigError: the folder's run didn't begin with these.
        UserError: the start would remove them, or nothing says how to train.
    """
    held = [] if fresh else checkpoints(folder / "checkpoints")
    if held:
        _check_origin(held, path, folder)
        return load_config(config_file(folder) or folder / CONFIG), None
    source = open_source(path)
    if source.path.is_relative_to(folder.resolve()):
        raise UserError(
            f"--init-from {path} is in {folder}, whose checkpoints a new run there would replace; expected another "
            "--out; choose one"
        )
    if source.step is None and not configured:
        raise UserError(
            f"--init-from {path}: it says nothing of how to train; expected a configuration; name one, which may leave "
            "out model and projection"
        )
    return source.config, source


def _check_origin(held: list[Path], named: Path, folder: Path) -> None:
    for path in reversed(held):
        try:
            origin = open_checkpoint(path).progress.origin
        except CheckpointError:
            continue  # said where the run goes on
        if origin is None or not Path(origin.path).is_relative_to(named.resolve()):
            begun = f"began with {origin.path}" if origin else "didn't begin with other weights"
            raise ConfigError(
                f"--init-from {named}: the run in {folder} {begun}; expected the same; leave it out to go on, choose "
                "another --out, or begin again with --fresh --overwrite"
            )
        return


def check_fit(source: Source, config: Config, dataset: Dataset) -> None:
    """See that a run can begin with these weights.

    Raises:
        ConfigError: its model is another one; every difference is named.
        DataError: its data has another tokenizer.
    """
    changes = differences(source.config, config)
    others = [
        text for key, text in changes.items() if key.partition(".")[0] in ("model", "projection") and key not in _FREE
    ]
    if others:
        raise ConfigError(
            f"the weights of {source.path} are of another model: {'; '.join(others)} there. Expected the same; what "
            "the configuration leaves out follows the weights: remove these keys from it, or the sections"
        )
    if dataset.tokenizer.fingerprint != source.tokenizer.fingerprint:
        raise DataError(
            f"{dataset.path} was prepared with another tokenizer than the one of {source.path}; expected the same: "
            f"prepare it with --tokenizer {source.path}"
        )


def begin_with(source: Source, config: Config, folder: Path, dataset: Dataset) -> Checkpoint:
    """Write the weights as the checkpoint of step 0 of a run, and return it.

    Args:
        source: of the weights.
        config: of the run.
        folder: the run folder, without checkpoints.
        dataset: what it is trained on.

    Raises:
        CheckpointError: the arrays aren't those of the model.
        StorageError: the disk refused.
    """
    path = checkpoint.checkpoint_path(folder / "checkpoints", 0)
    table = parameter_table(config)
    digest = _Digest()
    arrays = cast(
        digest.passing(check_arrays(source.parameters(), shapes_of(table), places_of(table))), config.train.param_dtype
    )
    with atomic_dir(path, replace=True) as partial:
        files = write_tensors(partial, checkpoint.MODEL, arrays)
        origin = Origin(str(source.path), source.step, digest.hexadecimal)
        progress = TrainState(data=dataset.fingerprint, origin=origin)
        checkpoint.write_manifest(partial, files, config, progress, dataset.tokenizer)
    with storage(path):
        replace_text(folder / LATEST, f"{path.parent.name}/{path.name}\n")
    return open_checkpoint(path)


class _Digest:
    """SHA-256 of arrays that pass by: names, types, shapes and bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def passing(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays as they come."""
        for name, array in arrays:
            self._hash.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            self._hash.update(array.tobytes())
            yield name, array

    @property
    def hexadecimal(self) -> str:
        """Of all that have passed."""
        return self._hash.hexdigest()
