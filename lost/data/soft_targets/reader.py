"""Soft targets on disk: a folder with each prediction's likeliest entries, and the `targets.json` that describes them.

Row w * seq_len + i is prediction i of window w, as `lost.data.loader.windows` cuts the training text into windows of
seq_len: so of plain text for token 1 + w * seq_len + i, after what its window holds before it. In which order a run
visits its windows doesn't matter.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lost.data.batch import SoftTargets
from lost.data.description import FileEntry
from lost.data.shards import Shard, open_shard
from lost.errors import DataError
from lost.storage.files import Seal, digest_error, read_sealed_json

DESCRIPTION = "targets.json"
FORMAT = 1
LOG_PROBABILITIES = np.dtype("<f2")


class Description(BaseModel):
    """A `targets.json`.

    Attributes:
        format: of the folder.
        teacher: SHA-256 of its weights.
        origin: where it stood.
        data: fingerprint of the prepared set.
        vocab_size: of the teacher.
        seq_len: predictions a window.
        top_k: entries a prediction.
        temperature: of the probabilities.
        windows: of the set.
        dtype: of the ids.
        ids: files of ids, in their order; `tokens` are predictions.
        log_probabilities: of log-probabilities, little-endian float16, likewise.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    format: int
    teacher: str
    origin: str
    data: str
    vocab_size: int = Field(ge=1, lt=1 << 31)
    seq_len: int = Field(ge=1, lt=1 << 31)
    top_k: int = Field(ge=1, lt=1 << 31)
    temperature: float = Field(gt=0, allow_inf_nan=False)
    windows: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    ids: list[FileEntry]
    log_probabilities: list[FileEntry]


class SoftTargetSet:
    """A folder written by `lost teach`.

    Args:
        path: of it.

    Raises:
        DataError: it isn't one, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            value = read_sealed_json(path / DESCRIPTION)
            self.description = Description.model_validate(value)
        except OSError as error:
            raise DataError(f"{path / DESCRIPTION} can't be read: {error.strerror}; name another folder") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise self._damaged(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as error:
            raise self._damaged(str(error)) from None
        self.fingerprint = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        self._check()

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.path / DESCRIPTION} describes no soft targets: {why}; write them anew (`lost teach`)")

    def _check(self) -> None:
        told = self.description
        if told.format != FORMAT:
            raise self._damaged(f"format {told.format}, and this version reads {FORMAT}")
        if told.top_k > told.vocab_size:
            raise self._damaged(f"{told.top_k} entries of {told.vocab_size}")
        for files, dtype in ((told.ids, np.dtype(told.dtype)), (told.log_probabilities, LOG_PROBABILITIES)):
            width = told.top_k * dtype.itemsize
            if sum(file.tokens for file in files) != told.windows * told.seq_len:
                raise self._damaged("its files don't hold each prediction once")
            if any(file.size != file.tokens * width or file.tokens % told.seq_len or not file.tokens for file in files):
                raise self._damaged("its files are not of the size that they are to have")
        if [file.tokens for file in told.ids] != [file.tokens for file in told.log_probabilities]:
            raise self._damaged("its files differ in what they hold")

    @cached_property
    def _shards(self) -> list[tuple[int, Shard, Shard]]:
        """The first window of each pair of files, and both."""
        told, found, first = self.description, [], 0
        dtype = np.dtype(told.dtype).newbyteorder("<")
        for ids, kept in zip(told.ids, told.log_probabilities, strict=True):
            opened = open_shard(self.path, kept.model_dump(), LOG_PROBABILITIES)
            found.append((first, open_shard(self.path, ids.model_dump(), dtype), opened))
            first += ids.tokens // told.seq_len
        return found

    def read(self, windows: np.ndarray) -> SoftTargets:
        """Return the soft targets of windows (b,), by their numbers.

        Raises:
            DataError: the files can't be read, were changed, or hold what no teacher predicts.
        """
        pairs = [self._window(int(window)) for window in windows]
        ids, kept = (np.stack(each) for each in zip(*pairs, strict=True))
        if ids.max() >= self.description.vocab_size or not (kept <= 0).all() or not np.isfinite(kept).all():
            raise DataError(
                f"{self.path} holds ids or log-probabilities that no teacher has; expected what `lost teach` wrote; "
                "restore it, or write it anew"
            )
        return SoftTargets(ids.astype(np.int32), kept.astype(np.float32))

    def _window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        told = self.description
        first, ids, kept = next(each for each in reversed(self._shards) if each[0] <= number)
        entries = told.seq_len * told.top_k
        piece = slice((number - first) * entries, (number - first + 1) * entries)
        shape = (told.seq_len, told.top_k)
        return ids[piece].reshape(shape), kept[piece].reshape(shape)

    def problems(self, rank: int = 0, world_size: int = 1, only: str | None = None) -> Iterator[str]:
        """Yield what is wrong with files, as a prepared set does."""
        files = [*self.description.ids, *self.description.log_probabilities]
        for file in files[rank::world_size]:
            path = self.path / file.name
            if fault := digest_error(path, Seal(size=file.size, sha256=file.sha256)):
                yield f"{path} {fault}"
