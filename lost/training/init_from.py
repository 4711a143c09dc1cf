"""`lost train --init-from`: a new run that starts with the weights of another model.

They become the run's checkpoint of step 0, and from there on it is a run like any other: it resumes without the source
of the weights, and every worker reads its part.
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
from lost.model.parameters import index_limits, parameter_table, shapes_of
from lost.storage.arrays import NamedArrays, check_arrays
from lost.storage.files import atomic_dir, replace_text, storage
from lost.storage.nofollow import resolved
from lost.storage.tensors import write_tensors
from lost.tokenizer import Tokenizer
from lost.training.run_dir import CONFIG, LATEST, config_file, differences, find_checkpoint

# What the run's model may differ in from the weights': the length of the context, and what only affects initialization.
_FREE = {
    *(f"model.{key}" for key in ("max_position_embeddings", "rope_theta", "initializer_range")),
    *(f"projection.{key}" for key in ("init_std", "start", "select", "values")),
}


@dataclass(frozen=True)
class Source:
    """The model to start with.

    Attributes:
        path: the checkpoint, or the folder of another tool.
        step: of its training; None: unknown.
        config: its model and projections, and how it was trained.
        tokenizer: of its token ids.
        parameters: yields its arrays by name.
        remarks: on how it was read, for the user.
    """

    path: Path
    step: int | None
    config: Config
    tokenizer: Tokenizer
    parameters: Callable[[], NamedArrays]
    remarks: Sequence[str] = ()


def open_source(path: Path) -> Source:
    """Open a checkpoint, the newest intact one of a run, or a Hugging Face folder.

    Raises:
        CheckpointError: it is none of these, or damaged.
    """
    ours = (path / MANIFEST).exists() or (path / "checkpoints").exists()
    if not ours and (path / checkpoint.CONFIG).exists():
        from lost.interop.from_hf import open_folder

        folder = open_folder(path)
        return Source(resolved(path), None, folder.config, folder.tokenizer, folder.parameters, folder.remarks)
    if not ours:
        raise CheckpointError(
            f"--init-from {path}: it holds no weights; expected a run, a checkpoint, or a folder with a Hugging Face "
            f"model ({checkpoint.CONFIG} and safetensors); name one"
        )
    held, rejected = find_checkpoint(path)
    remarks = [f"skipped: {reason}" for reason in rejected]
    return Source(resolved(held.path), held.progress.step, held.config, held.tokenizer(), held.parameters, remarks)


def beginning(path: Path, folder: Path, fresh: bool, configured: bool) -> tuple[Config, Source | None]:
    """Return the configuration that supplies what the run's own leaves out, and the model to start with.

    Args:
        path: of --init-from.
        folder: the run folder; if it has checkpoints the run is resumed, and the source isn't opened.
        fresh: whether to start over even so.
        configured: whether the run has a configuration of its own.

    Raises:
        CheckpointError: there are no weights.
        ConfigError: the folder's run started with other weights.
        UserError: the start would remove the weights, or nothing says how to train.
    """
    held = [] if fresh else checkpoints(folder / "checkpoints")
    if held:
        _check_origin(held, path, folder)
        return load_config(config_file(folder) or folder / CONFIG), None
    source = open_source(path)
    if source.path.is_relative_to(resolved(folder)):
        raise UserError(
            f"--init-from {path} is in {folder}, whose checkpoints a new run there would replace; choose another --out"
        )
    if source.step is None and not configured:
        raise UserError(
            f"--init-from {path}: it doesn't say how to train; expected a configuration; name one, which may leave out "
            "model and projection"
        )
    return source.config, source


def _check_origin(held: list[Path], named: Path, folder: Path) -> None:
    for path in reversed(held):
        try:
            origin = open_checkpoint(path).progress.origin
        except CheckpointError:
            continue  # reported when the run is resumed
        if origin is None or not Path(origin.path).is_relative_to(resolved(named)):
            started = f"started with {origin.path}" if origin else "didn't start with other weights"
            raise ConfigError(
                f"--init-from {named}: the run in {folder} {started}; expected the same; leave it out to resume, "
                "choose another --out, or start over with --fresh --overwrite"
            )
        return


def check_fit(source: Source, config: Config, dataset: Dataset) -> None:
    """Check that a run can start with these weights.

    Raises:
        ConfigError: its model is another one; the message names every difference.
        DataError: its data has another tokenizer.
    """
    changes = differences(source.config, config)
    others = [
        text for key, text in changes.items() if key.partition(".")[0] in ("model", "projection") and key not in _FREE
    ]
    if others:
        raise ConfigError(
            f"the weights of {source.path} are of another model: {'; '.join(others)} there. Expected the same; keys "
            "that the configuration leaves out follow the weights: remove these keys from it, or the sections"
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
        digest.passing(check_arrays(source.parameters(), shapes_of(table), index_limits(table))),
        config.train.param_dtype,
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
    """SHA-256 of a stream of arrays: names, types, shapes and bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def passing(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays unchanged."""
        for name, array in arrays:
            self._hash.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            self._hash.update(array.tobytes())
            yield name, array

    @property
    def hexadecimal(self) -> str:
        """The digest of all arrays so far."""
        return self._hash.hexdigest()
