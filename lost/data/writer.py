"""Writing of a prepared set: token shards, loss masks, and the `dataset.json` that describes them."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lost.data.dataset import DESCRIPTION, FORMAT
from lost.data.loss_mask import IN_LOSS
from lost.errors import DataError
from lost.storage.files import flush, sealed_json
from lost.storage.nofollow import open_new, open_read, open_update, write_new
from lost.tokenizer import Tokenizer

_SHARD_TOKENS = 100_000_000


class SplitWriter:
    """Writes the shards of one split, `<split>-00000.bin` and so on, little-endian uint16 or uint32.

    A split begins with end-of-text and every document ends with it: each token of text has something before it, so
    each is predicted once, and nothing is padded.

    Args:
        folder: where the shards go.
        split: its name.
        tokenizer: which made the ids.
        state: to resume from, as `state` returned it; what was written since is dropped.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, state: dict[str, Any] | None = None) -> None:
        self._folder, self._split = folder, split
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._files: list[dict[str, Any]] = []
        self._open: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.documents = self.bytes = self.tokens = 0
        if state:
            if fault := shards_fault(folder, split, state):
                raise DataError(f"{fault}; remove {folder}, and prepare the data again")
            self._files = state["files"]
            self.documents, self.bytes, self.tokens = (state[key] for key in ("documents", "bytes", "tokens"))
            self._reopen()
        else:
            self.append(np.array([tokenizer.end_of_text]))

    def append(self, ids: np.ndarray, documents: int = 0, size: int = 0) -> None:
        """Append the tokens (n,) of a number of documents, which are `size` bytes of text."""
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
        """Return what a writer needs to resume from here, once `flush` has been called."""
        files = [{**each, "size": each["tokens"] * self._dtype.itemsize} for each in self._files]
        return {"files": files, "documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}

    def flush(self) -> None:
        """Flush all that was appended to disk."""
        if self._open is not None:
            self._open.flush()
            flush(self._folder / self._files[-1]["name"])

    def close(self) -> dict[str, Any]:
        """Finish the last shard; return the split's entry of `dataset.json`."""
        self._close_shard()
        counts = {"documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}
        return {**counts, "files": self._files}

    def _name(self, number: int) -> str:
        return _shard_name(self._split, number)

    def _reopen(self) -> None:
        """Go on with the last shard, if it isn't full."""
        if "sha256" in (entry := self._files[-1]):
            return
        self._open = file = io.BufferedRandom(open_update(self._folder / entry["name"]))
        file.truncate(entry["tokens"] * self._dtype.itemsize)
        self._hash = hashlib.file_digest(file, "sha256")  # which leaves it at its end

    def _close_shard(self) -> None:
        if self._open is not None:
            self.flush()  # here, lest a later state name a shard that isn't on disk yet
            file, self._open = self._open, None  # first: an interruption may flush what is open
            file.close()
            entry = self._files[-1]
            entry.update(size=entry["tokens"] * self._dtype.itemsize, sha256=self._hash.hexdigest())
            self._hash = hashlib.sha256()


class MaskWriter:
    """Writes the loss mask of one split, `<split>.marks`."""

    def __init__(self, folder: Path, split: str) -> None:
        self._name, self._hash = f"{split}.marks", hashlib.sha256()
        self._file = open_new(folder / self._name)
        self._size = self._tokens = 0
        self.bytes = 0

    def append(self, mask: np.ndarray) -> None:
        """Append the marks of n tokens, (n,)."""
        content = mask.astype(np.uint8).tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._size += len(content)
        self._tokens += int((mask & IN_LOSS).sum())

    def close(self) -> dict[str, Any]:
        """Finish the file; return its entry of `dataset.json`."""
        self._file.close()
        sealed = {"size": self._size, "sha256": self._hash.hexdigest()}
        return {"name": self._name, "tokens": self._tokens, "bytes": self.bytes, **sealed}


def shards_fault(folder: Path, split: str, state: dict[str, Any]) -> str | None:
    """Return what is wrong with the shards that a writer's state speaks of, by their sizes, or None.

    The last one, if it isn't finished, may be longer: what was written since is dropped.

    Raises:
        OSError: one can't be read, or is a link.
    """
    files = state["files"]
    if [each["name"] for each in files] != [_shard_name(split, number) for number in range(len(files))]:
        return f"{folder} speaks of files that are no shards"
    for each in files:
        path = folder / each["name"]
        wanted = each.get("size", 2 * each["tokens"])  # earlier versions don't say it: a token is 2 bytes at least
        try:
            with open_read(path) as file:
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return f"{path} is missing"
        if size < wanted or (size > wanted and "sha256" in each):
            return f"{path} is {size} bytes long instead of {wanted}"
    return None


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.bin"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the type that shards use for such a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_description(folder: Path, tokenizer: Tokenizer, splits: dict[str, dict[str, Any]], origin: Any) -> None:
    """Write `dataset.json` and the tokenizer."""
    tokenizer.save(folder)
    description = {
        "format": FORMAT,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "splits": splits,
        "origin": origin,
    }
    write_new(folder / DESCRIPTION, sealed_json(description))
