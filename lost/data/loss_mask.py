"""Loss mask of a split, where not all of it is to be learned: a mark for each token, in a file beside the shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.shards import open_shard

IN_LOSS = 1  # its prediction enters the loss
EXAMPLE_START = 2  # an example begins with it


@dataclass(frozen=True)
class LossMask:
    """The tokens of a split whose predictions enter the loss; the others are only read.

    Attributes:
        tokens: how many there are.
        bytes: UTF-8 bytes of the text that they stand for.
        mask: (tokens of the split,) uint8, a sum of `IN_LOSS` and `EXAMPLE_START` each.
    """

    tokens: int
    bytes: int
    mask: np.ndarray


def open_loss_mask(folder: Path, entry: Mapping[str, Any]) -> LossMask:
    """Read the mask that an entry of `dataset.json` describes.

    Raises:
        DataError: the file is missing or shortened.
    """
    shard = open_shard(folder, entry, np.dtype(np.uint8))
    return LossMask(entry["tokens"], entry["bytes"], shard[: len(shard)])
