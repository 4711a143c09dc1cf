"""The teacher of a run: a model on disk, or what one predicted, once it is known that the run can learn from it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lost.config import DTYPE_BYTES, Config
from lost.data.dataset import Dataset, config_path
from lost.data.mixture import Mixture
from lost.data.soft_targets.reader import DESCRIPTION, SoftTargetSet
from lost.engine import Engine, inference_config
from lost.errors import CheckpointError, ConfigError, DataError
from lost.interop.hub.download import SCHEME, address
from lost.interop.source import Source, open_source
from lost.model.parameters import parameter_table, vocabulary
from lost.storage.arrays import NOT_FINITE, is_finite
from lost.tokenizer import same_ids


@dataclass(frozen=True)
class Teacher:
    """What a run learns from beside its data.

    Attributes:
        place: as the run's configuration names it.
        identity: SHA-256 of the weights, or of the description of the soft targets.
        source: the model; None: soft targets stand for it.
        targets: what it predicted; None: it is asked.
    """

    place: str
    identity: str
    source: Source | None = None
    targets: SoftTargetSet | None = None

    def memory(self, config: Config) -> int:
        """Return the bytes of its weights, in the run's type of computation."""
        return _weights_bytes(self.source, config) if self.source else 0

    def sentence(self, config: Config) -> str:
        """Return what is said of it where a run begins."""
        how = f"weight {config.teacher.weight:g}, temperature {config.teacher.temperature:g}"
        if self.targets is None:
            return f"learning from {self.place} too: {how}"
        told = self.targets.description
        return f"learning from the {told.top_k} likeliest entries in {self.place} too, of {told.origin}: {how}"

    def load(self, engine: Engine, config: Config) -> None:
        """Have an engine learn from it too."""
        if self.source is not None:
            dtype = config.train.compute_dtype
            held = inference_config(self.source.config).replace("train", dtype=dtype, param_dtype=dtype)
            engine.teach(held, self.source.parameters())


def open_teacher(config: Config, dataset: Dataset) -> Teacher | None:
    """Open the teacher that a configuration names; None: it names none.

    Raises:
        ConfigError: it is none, or none that the run can learn from.
        NetworkError: a hub that holds it doesn't answer.
    """
    if config.teacher.path is None:
        return None
    try:
        if (Path(config.teacher.path) / DESCRIPTION).exists():
            return _soft_targets(SoftTargetSet(Path(config.teacher.path)), config, dataset)
        return _model(teacher_source(config.teacher.path), config, dataset)
    except (CheckpointError, DataError) as error:
        raise ConfigError(f"teacher.path: {error}") from None


def teacher_bytes(config: Config) -> int:
    """Return the bytes of the weights of the teacher that a configuration names, as far as plans need to know it.

    Raises:
        ConfigError: it is none.
        NetworkError: a hub that holds it doesn't answer.
    """
    path = config.teacher.path
    if path is None or (Path(path) / DESCRIPTION).exists():
        return 0
    try:
        return _weights_bytes(teacher_source(path), config)
    except (CheckpointError, DataError) as error:
        raise ConfigError(f"teacher.path: {error}") from None


def _weights_bytes(source: Source, config: Config) -> int:
    width = DTYPE_BYTES[config.train.compute_dtype]
    return sum(row.size * (4 if row.integer else width) for row in parameter_table(source.config).values())


def teacher_source(path: str) -> Source:
    """Open a teacher's weights.

    Raises:
        CheckpointError, DataError: there are none.
    """
    return open_source(address(path) if path.startswith(SCHEME) else Path(path))


def _model(source: Source, config: Config, dataset: Dataset) -> Teacher:
    where = f"teacher.path = {config.teacher.path}"
    if not same_ids(source.tokenizer(), dataset.tokenizer):
        raise ConfigError(
            f"{where}: its tokenizer is not that of {dataset.path}, so its predictions are of other tokens; expected "
            f"the same; prepare the data with --tokenizer {source.path}, name another teacher, or none "
            "(teacher.path=null)"
        )
    entries, wanted = vocabulary(source.config), vocabulary(config)
    if entries != wanted:
        raise ConfigError(
            f"{where}: it predicts {entries} entries, and model.vocab_size = {wanted}; expected the same number; set "
            f"model.vocab_size={entries}, or name another teacher"
        )
    positions = source.config.model.max_position_embeddings
    if positions < config.data.seq_len:
        raise ConfigError(
            f"{where}: it has {positions} positions (max_position_embeddings), and data.seq_len = "
            f"{config.data.seq_len}; expected no more; lower it, or name another teacher"
        )
    named = str(config.teacher.path)
    place = named if named.startswith(SCHEME) else config_path(source.path)
    return Teacher(place, weights_digest(source), source)


def weights_digest(source: Source) -> str:
    """Return the SHA-256 of a model's weights, in whichever order they are stored, after reading all of them.

    Raises:
        CheckpointError: one isn't finite, and so predicts nothing.
    """
    found = {}
    for name, array in source.parameters():
        if not is_finite(array):
            raise CheckpointError(
                f"{source.path}: {name} {NOT_FINITE}, and so nobody learns from this model; expected weights as "
                "training writes them; name another teacher, or download the files again"
            )
        digest = hashlib.sha256(f"{array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        found[name] = digest.hexdigest()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _soft_targets(targets: SoftTargetSet, config: Config, dataset: Dataset) -> Teacher:
    told, where = targets.description, f"teacher.path = {targets.path}"
    if isinstance(dataset, Mixture):
        raise ConfigError(
            f"{where}: soft targets are of one prepared set, and the data is a mixture; expected one set in data.path; "
            "name it, or a teacher's weights"
        )
    if told.data != dataset.fingerprint:
        raise ConfigError(
            f"{where}: its soft targets are of other data than {dataset.path}; expected the same; write them for this "
            "set (`lost teach`), name the other with --data, or learn without (teacher.path=null)"
        )
    for key, held, wanted in (
        ("data.seq_len", told.seq_len, config.data.seq_len),
        ("teacher.temperature", told.temperature, config.teacher.temperature),
        ("model.vocab_size", told.vocab_size, vocabulary(config)),
    ):
        if held != wanted:
            raise ConfigError(
                f"{where}: its soft targets were written for {key} = {held:g}, and it is {wanted:g}; expected the "
                f"same; set {key}={held:g}, or write others (`lost teach`)"
            )
    return Teacher(config_path(targets.path), targets.fingerprint, targets=targets)
