"""What of a split is to be learned, where it isn't everything: a mark for each token, in a file beside the shards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.shards import open_shard
from lost.storage.nofollow import open_new

COUNTED = 1  # its prediction enters the loss
BEGINS = 2  # an example begins with it


@dataclass(frozen=True)
class Targets:
    """The tokens of a split whose predictions enter the loss; the others are only read.

    Attributes:
        tokens: how many there are.
        bytes: UTF-8 bytes of the text that they stand for.
        marks: (tokens of the split,) uint8, a sum of `COUNTED` and `BEGINS` each.
    """

    tokens: int
    bytes: int
    marks: np.ndarray


class MarksWriter:
    """Writes the marks of one split, `<split>.marks`."""

    def __init__(self, folder: Path, split: str) -> None:
        self._name, self._hash = f"{split}.marks", hashlib.sha256()
        self._file = open_new(folder / self._name)
        self._size = self._tokens = 0
        self.bytes = 0

    def append(self, marks: np.ndarray) -> None:
        """Append marks (n,)."""
        content = marks.astype(np.uint8).tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._size += len(content)
        self._tokens += int((marks & COUNTED).sum())

    def close(self) -> dict[str, Any]:
        """Finish the file; return its entry of `dataset.json`."""
        self._file.close()
        sealed = {"size": self._size, "sha256": self._hash.hexdigest()}
        return {"name": self._name, "tokens": self._tokens, "bytes": self.bytes, **sealed}


def open_targets(folder: Path, entry: Mapping[str, Any]) -> Targets:
    """Read the marks that an entry of `dataset.json` describes.

    Raises:
        DataError: the file is missing or shortened.
    """
    shard = open_shard(folder, entry, np.dtype(np.uint8))
    return Targets(entry["tokens"], entry["bytes"], shard[: len(shard)])
