"""Prepared text on disk: a folder of token shards and the `dataset.json` that describes them."""

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.description import read_description
from lost.data.loss_mask import LossMask, open_loss_mask
from lost.data.shards import Row, open_shard
from lost.errors import DataError
from lost.storage.files import Seal, digest_error, read_sealed_json
from lost.storage.nofollow import resolved
from lost.tokenizer import load_tokenizer
from lost.utils.wording import did_you_mean_path

DESCRIPTION = "dataset.json"
TRAIN, VALID = "train", "valid"
FORMAT = 1


@dataclass
class Split:
    """The tokens of one split, as one long row over its shards.

    Attributes:
        name: of the split.
        tokens: how many, the end-of-text that it begins with among them.
        bytes: of the text in UTF-8.
        documents: of the text.
        vocab_size: above all ids.
        loss_mask: where not all of them are to be learned.
        parts: the splits that are joined in it, if it isn't one.
    """

    name: str
    tokens: int
    bytes: int
    documents: int
    vocab_size: int
    _shards: Sequence[Row] = field(repr=False)
    _starts: list[int] = field(repr=False)
    loss_mask: LossMask | None = None
    parts: "Sequence[Split]" = ()

    @property
    def predictions(self) -> int:
        """How many tokens are predicted where all of it is read."""
        return self.loss_mask.tokens if self.loss_mask else self.tokens - 1

    def windows(self, seq_len: int) -> int:
        """Count the samples: windows of seq_len + 1 tokens, each beginning where the one before was last predicted.

        Raises:
            DataError: not even one fits.
        """
        count = (self.tokens - 1) // seq_len
        if count < 1:
            raise DataError(
                f"data.seq_len = {seq_len}: the {self.name} split holds only {self.tokens} tokens, and one sample "
                f"takes {seq_len + 1}; prepare more text or set a shorter data.seq_len"
            )
        return count

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens [start, start + length) as int32, across shard borders.

        Raises:
            DataError: an id beyond the vocabulary, which only damage can put there; or a shard that can't be read, or
                was changed since.
        """
        shard = bisect.bisect_right(self._starts, start) - 1
        parts, needed = [], length
        while needed > 0:
            offset = start + length - needed - self._starts[shard]
            part = self._shards[shard][offset : offset + needed]
            parts.append(part)
            needed -= len(part)
            shard += 1
        ids = np.concatenate(parts)
        if ids.max() >= self.vocab_size:
            raise DataError(
                f"token id {ids.max()} at token {start + int(ids.argmax())} of the {self.name} split is beyond the "
                f"vocabulary of {self.vocab_size}: the shards are damaged; prepare the data again"
            )
        return ids.astype(np.int32)


def join_splits(splits: Sequence[Split]) -> Split:
    """Return splits of one vocabulary as one; the end-of-text between two of them is theirs in common."""
    shards, starts, tokens = [], [], 0
    for number, split in enumerate(splits):
        for index, shard in enumerate(split._shards):
            shards.append(shard)
            # The end-of-text that ends one split is the one that begins the next.
            starts.append(tokens - 1 if number and not index else tokens)
            tokens = starts[-1] + len(shard)
    first = splits[0]
    masks = [split.loss_mask for split in splits if split.loss_mask]
    loss_mask = None
    if masks:
        parts = [each.mask[1:] if number else each.mask for number, each in enumerate(masks)]
        counts = sum(each.tokens for each in masks), sum(each.bytes for each in masks)
        loss_mask = LossMask(*counts, np.concatenate(parts))
    sizes = sum(split.bytes for split in splits), sum(split.documents for split in splits)
    return Split(first.name, tokens, *sizes, first.vocab_size, shards, starts, loss_mask, splits)


def config_path(path: Path) -> str:
    """Return a path, made absolute, as a configuration holds it.

    Raises:
        DataError: its bytes are no UTF-8.
    """
    text = str(resolved(path))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{text} is not UTF-8, and a configuration names its data; expected a path that is; rename the folder"
        ) from None
    return text


class Dataset:
    """A folder written by `lost prepare`.

    Raises:
        DataError: not such a folder, a description that describes no set, a tokenizer that isn't the one it was made
            with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._description = read_sealed_json(path / DESCRIPTION)
        except OSError as error:
            what = f"holds no prepared data ({DESCRIPTION}: {error.strerror})"
            if not path.is_dir():
                what = "is a file, no prepared data" if path.exists() else "doesn't exist"
            raise DataError(
                f"{path} {what}; {did_you_mean_path(path)}expected a folder written by "
                "`lost prepare`; prepare it, or name another with --data"
            ) from None
        except ValueError as error:
            raise DataError(f"{path / DESCRIPTION} is damaged: {error}; prepare the data again") from None
        if self._description.get("format") != FORMAT:
            raise DataError(f"{path} has data format {self._description.get('format')}; this version reads {FORMAT}")
        meant = read_description(path / DESCRIPTION, self._description)
        self._splits, self._dtype = meant.splits, np.dtype(meant.dtype).newbyteorder("<")
        self.tokenizer = load_tokenizer(path)
        if self.tokenizer.fingerprint != meant.tokenizer.fingerprint:
            raise DataError(
                f"{path}: {self.tokenizer.FILE} is not the one that the shards were made with; put that one back, or "
                "prepare the data again"
            )

    @property
    def fingerprint(self) -> str:
        """One checksum over tokenizer and shards: equal only for equal data."""
        content = json.dumps([self.tokenizer.fingerprint, self._description["splits"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what names it in a configuration.

        Raises:
            DataError: its path is none that a configuration can hold.
        """
        return {"path": config_path(self.path), "mixture": None}

    def split(self, name: str) -> Split:
        """Open a split without reading it."""
        if name not in self._splits:
            raise DataError(f"{self.path} has no {name} split; prepare it with --valid or --valid-fraction")
        entry = self._splits[name]
        shards, starts, start = [], [], 0
        for file in entry.files:
            shards.append(open_shard(self.path, file.model_dump(), self._dtype))
            starts.append(start)
            start += file.tokens
        counts = (entry.tokens, entry.bytes, entry.documents)
        loss_mask = open_loss_mask(self.path, entry.targets.model_dump()) if entry.targets else None
        return Split(name, *counts, self.tokenizer.vocab_size, shards, starts, loss_mask)

    def problems(self, rank: int = 0, world_size: int = 1, only: str | None = None) -> Iterator[str]:
        """Yield what is wrong with shards: bytes that aren't those written. Each of several processes reads some.

        `only` names the split to look at; None: all.
        """
        splits = [entry for name, entry in self._splits.items() if only in (None, name)]
        files = [file for entry in splits for file in entry.files]
        files += [entry.targets for entry in splits if entry.targets]
        for file in files[rank::world_size]:
            path = self.path / file.name
            if fault := digest_error(path, Seal(size=file.size, sha256=file.sha256)):
                yield f"{path} {fault}"
