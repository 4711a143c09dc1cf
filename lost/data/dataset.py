"""Prepared text on disk: token shards and the `dataset.json` that describes them, written whole and read by window."""

import bisect
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lost.data.description import read_description
from lost.data.loss_mask import Targets, open_targets
from lost.data.shards import Row, open_shard
from lost.errors import DataError
from lost.storage.files import Seal, broken, flush, read_sealed_json, sealed_json
from lost.storage.nofollow import open_new, open_update, write_new
from lost.tokenizer import Tokenizer, load_tokenizer

DESCRIPTION = "dataset.json"
TRAIN, VALID = "train", "valid"
_FORMAT = 1
_SHARD_TOKENS = 100_000_000


class SplitWriter:
    """Writes the shards of one split, `<split>-00000.bin` and so on, little-endian uint16 or uint32.

    A split begins with end-of-text and every document ends with it: each token of text has something before it, so
    each is predicted once, and nothing is padded.

    Args:
        folder: where the shards go.
        split: its name.
        tokenizer: which made the ids.
        state: to go on from, as `state` returned it; what was written since is dropped.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, state: dict[str, Any] | None = None) -> None:
        self._folder, self._split = folder, split
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._files: list[dict[str, Any]] = []
        self._open: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.documents = self.bytes = self.tokens = 0
        if state:
            self._files = state["files"]
            if [each["name"] for each in self._files] != [self._name(number) for number in range(len(self._files))]:
                raise DataError(f"{folder} speaks of files that are no shards; remove it, and prepare the data again")
            self.documents, self.bytes, self.tokens = (state[key] for key in ("documents", "bytes", "tokens"))
            self._reopen()
        else:
            self.append(np.array([tokenizer.end_of_text]))

    def append(self, ids: np.ndarray, documents: int = 0, size: int = 0) -> None:
        """Append tokens (n,) of whole documents, so many of them, of `size` bytes."""
        self.documents += documents
        self.bytes += size
        while len(ids):
            if self._open is None:
                self._files.append({"name": self._name(len(self._files)), "tokens": 0})
                self._open = open_new(self._folder / self._files[-1]["name"])
            entry = self._files[-1]
            part, ids = np.split(ids, [_SHARD_TOKENS - entry["tokens"]])
            content = part.astype(self._dtype).tobytes()
            self._open.write(content)
            self._hash.update(content)
            entry["tokens"] += len(part)
            self.tokens += len(part)
            if entry["tokens"] == _SHARD_TOKENS:
                self._close_shard()

    def state(self) -> dict[str, Any]:
        """Have all that was appended written to disk; return what a writer needs to go on from here."""
        if self._open is not None:
            self._open.flush()
            flush(self._folder / self._files[-1]["name"])
        return {"files": self._files, "documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}

    def close(self) -> dict[str, Any]:
        """Finish the last shard; return the split's entry of `dataset.json`."""
        self._close_shard()
        counts = {"documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}
        return {**counts, "files": self._files}

    def _name(self, number: int) -> str:
        return f"{self._split}-{number:05d}.bin"

    def _reopen(self) -> None:
        """Go on with the last shard, if it isn't full."""
        if "sha256" in (entry := self._files[-1]):
            return
        self._open = file = io.BufferedRandom(open_update(self._folder / entry["name"]))
        file.truncate(entry["tokens"] * self._dtype.itemsize)
        self._hash = hashlib.file_digest(file, "sha256")  # which leaves it at its end

    def _close_shard(self) -> None:
        if self._open is not None:
            self.state()  # flushed here, lest a later state name a shard that isn't on disk yet
            self._open.close()
            entry = self._files[-1]
            entry.update(size=entry["tokens"] * self._dtype.itemsize, sha256=self._hash.hexdigest())
            self._open, self._hash = None, hashlib.sha256()


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the type that shards use for such a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_description(folder: Path, tokenizer: Tokenizer, splits: dict[str, dict[str, Any]], origin: Any) -> None:
    """Write `dataset.json` and the tokenizer."""
    tokenizer.save(folder)
    description = {
        "format": _FORMAT,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "splits": splits,
        "origin": origin,
    }
    write_new(folder / DESCRIPTION, sealed_json(description))


@dataclass
class Split:
    """The tokens of one split, as one long row over its shards; `targets` where not all of them are to be learned."""

    name: str
    tokens: int
    bytes: int
    documents: int
    vocab_size: int
    _shards: Sequence[Row] = field(repr=False)
    _starts: list[int] = field(repr=False)
    targets: Targets | None = None

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


def joined(splits: Sequence[Split]) -> Split:
    """Return splits of one vocabulary as one; end-of-text, which each begins with, stands there once between two."""
    shards, starts, tokens = [], [], 0
    for number, split in enumerate(splits):
        for place, shard in enumerate(split._shards):
            shards.append(shard)
            # The end-of-text that ends one split is the one that begins the next.
            starts.append(tokens - 1 if number and not place else tokens)
            tokens = starts[-1] + len(shard)
    first = splits[0]
    marked = [split.targets for split in splits if split.targets]
    targets = None
    if marked:
        marks = [each.marks[1:] if number else each.marks for number, each in enumerate(marked)]
        counts = sum(each.tokens for each in marked), sum(each.bytes for each in marked)
        targets = Targets(*counts, np.concatenate(marks))
    sizes = sum(split.bytes for split in splits), sum(split.documents for split in splits)
    return Split(first.name, tokens, *sizes, first.vocab_size, shards, starts, targets)


def named(path: Path) -> str:
    """Return a path, made absolute, as a configuration holds it.

    Raises:
        DataError: its bytes are no UTF-8.
    """
    text = str(path.resolve())
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
            raise DataError(
                f"{path} holds no prepared data ({DESCRIPTION}: {error.strerror}); expected a folder written by "
                "`lost prepare`; prepare it, or name another with --data"
            ) from None
        except ValueError as error:
            raise DataError(f"{path / DESCRIPTION} is damaged: {error}; prepare the data again") from None
        if self._description.get("format") != _FORMAT:
            raise DataError(f"{path} has data format {self._description.get('format')}; this version reads {_FORMAT}")
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
        return {"path": named(self.path), "mixture": None}

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
        targets = open_targets(self.path, entry.targets.model_dump()) if entry.targets else None
        return Split(name, *counts, self.tokenizer.vocab_size, shards, starts, targets)

    def faults(self, reader: int = 0, readers: int = 1) -> Iterator[str]:
        """Yield what is wrong with shards whose bytes are not the ones that were written; of several readers, some."""
        splits = self._splits.values()
        files = [file for entry in splits for file in entry.files]
        files += [entry.targets for entry in splits if entry.targets]
        for file in files[reader::readers]:
            path = self.path / file.name
            if fault := broken(path, Seal(size=file.size, sha256=file.sha256)):
                yield f"{path} {fault}"
