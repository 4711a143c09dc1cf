"""Schema of a `dataset.json`: a prepared set may come from a stranger, so nothing in it is taken for granted."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lost.errors import DataError


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class FileEntry(_Entry):
    """A file beside it: its name, how much is in it, and its seal."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    tokens: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str


class MarksEntry(FileEntry):
    """The marks of a split: `tokens` are those that are to be learned, `bytes` the text that they stand for."""

    bytes: int = Field(ge=0)


class SplitEntry(_Entry):
    """A split: what it counts, and its shards."""

    documents: int = Field(ge=0)
    bytes: int = Field(ge=0)
    tokens: int = Field(ge=1)
    files: list[FileEntry] = Field(min_length=1)
    targets: MarksEntry | None = None


class TokenizerEntry(_Entry):
    """The tokenizer that the shards were made with."""

    fingerprint: str


class Description(_Entry):
    """A `dataset.json`, as far as it is needed to read the set."""

    tokenizer: TokenizerEntry
    dtype: Literal["uint16", "uint32"]
    splits: dict[str, SplitEntry]


def read_description(path: Path, value: dict[str, Any]) -> Description:
    """Return what a document says, once it is known to describe a set.

    Args:
        path: of the document, for messages.
        value: its content.

    Raises:
        DataError: it describes none.
    """
    try:
        description = Description.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: {where}: {first['msg']}; it describes no prepared set; prepare the data again"
        ) from None
    width = np.dtype(description.dtype).itemsize
    for name, split in description.splits.items():
        tokens = sum(file.tokens for file in split.files)
        sizes = all(file.size == file.tokens * width for file in split.files)
        marks = split.targets is None or (split.targets.size == split.tokens >= split.targets.tokens)
        if tokens != split.tokens or not sizes or not marks:
            raise DataError(
                f"{path}: the {name} split has {split.tokens} tokens, and its files are not of that size; it describes "
                "no prepared set; prepare the data again"
            )
    return description
