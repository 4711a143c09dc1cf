"""From documents to a prepared set: survey the text, choose what is held out, train a tokenizer, write token shards."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lost.dataset import DESCRIPTION, TRAIN, VALID, SplitWriter, write_description
from lost.errors import DataError
from lost.files import whole_folder
from lost.sources import Sources
from lost.tokenizer import Tokenizer, train_tokenizer

_TOKENIZER_BYTES = 16 << 20  # text that the tokenizer is trained on: more changes next to nothing
_LONGEST_LINE = 4096  # of what it is trained on: its trainer passes over longer ones
_BATCH_CHARACTERS = 4 << 20
_FEW = 20  # with fewer documents, a whole one would be too large a share to hold out

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Survey:
    """What one pass over the text found."""

    documents: int
    bytes: int
    hashes: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """Which text is validation: whole documents if there are enough of them, else the end of each document."""

    fraction: float
    largest_hash: int | None
    """Documents whose hash is at most this are held out (equal documents together); None: ends are held out."""

    def split(self, text: str) -> tuple[str, str]:
        """Return (training text, validation text) of one document."""
        if self.largest_hash is not None:
            return ("", text) if _hash(text) <= self.largest_hash else (text, "")
        cut = self._cut(text)
        return text[:cut], text[cut:]

    def _cut(self, text: str) -> int:
        """Return where the held-out end begins: after a line, else after a word, else anywhere."""
        wanted = int(len(text) * (1 - self.fraction))
        nearby = max(0, wanted - max(200, len(text) - wanted))
        for border in ("\n", " "):
            if (found := text.rfind(border, nearby, wanted)) >= 0:
                return found + 1
        return wanted


def prepare(
    sources: Sources,
    out: Path,
    tokenizer: Tokenizer | int,
    valid: Sources | float,
    progress: Progress = lambda phase, done, total: None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a prepared set.

    Args:
        sources: the training text.
        out: the folder to make; it appears only when it is complete.
        tokenizer: an existing one, or the size of the vocabulary to train.
        valid: text of its own for validation, or the share of `sources` to hold out, in (0, 1).
        progress: called with (phase, bytes done, bytes in all or 0 if that isn't known).
        overwrite: replace a set that is already there.

    Returns:
        The entries of both splits, as in `dataset.json`.

    Raises:
        DataError: no text, text that can't be read, a vocabulary that doesn't suit it, a set that is already there.
    """
    check_place(out, sources.paths, overwrite)
    own_validation = list(valid.paths) if isinstance(valid, Sources) else []
    sources = replace(sources, leave_out=[out, *own_validation])  # shares `skipped` with the caller's
    survey = _survey(sources, progress)
    held_out = None if isinstance(valid, Sources) else _hold_out(survey, valid)

    def training_text() -> Iterator[str]:
        for text in sources.documents():
            train = held_out.split(text)[0] if held_out else text
            if train:
                yield train

    def validation_text() -> Iterator[str]:
        if isinstance(valid, Sources):
            yield from valid.documents()
        elif held_out:
            yield from (part for text in sources.documents() if (part := held_out.split(text)[1]))

    if isinstance(tokenizer, int):
        sample = min(_TOKENIZER_BYTES, survey.bytes)
        progress("training the tokenizer", 0, sample)
        tokenizer = train_tokenizer(_sample(training_text(), survey.bytes), tokenizer)
        progress("training the tokenizer", sample, sample)
    with whole_folder(out, replace=overwrite) as folder:
        splits = {}
        for name, texts in ((TRAIN, training_text()), (VALID, validation_text())):
            writer = SplitWriter(folder, name, tokenizer)
            for batch in _batches(texts):
                writer.write(batch)
                progress(f"encoding {name}", writer.bytes, survey.bytes if name == TRAIN else 0)
            splits[name] = writer.close()
            if not writer.documents:
                raise DataError(f"the {name} split would be empty; expected text in it; add text or --valid-fraction")
        origin = {"sources": [str(path) for path in sources.paths]}
        write_description(folder, tokenizer, splits, origin)
    return splits


def check_place(out: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """See that a prepared set may be made at `out`.

    Raises:
        DataError: something else is there, or a set and `overwrite` is not given, or it would replace a source.
    """
    place = out.resolve()
    for source in sources:
        if place == source.resolve() or place in source.resolve().parents:
            raise DataError(f"--out {out} would replace the text in {source}; choose another folder")
    if out.is_dir() and not any(out.iterdir()):
        return  # an empty folder is renamed over
    if out.exists() and not (out / DESCRIPTION).exists():
        raise DataError(f"--out {out} exists and is not a prepared set; choose another folder")
    if out.exists() and not overwrite:
        raise DataError(f"--out {out} already holds a prepared set; choose another folder, or add --overwrite")


def _survey(sources: Sources, progress: Progress) -> Survey:
    hashes, size = [], 0
    for text in sources.documents():
        hashes.append(_hash(text))
        size += len(text.encode())
        progress("reading", size, 0)
    if not hashes:
        named = ", ".join(str(path) for path in sources.paths)
        skipped = f" ({len(sources.skipped)} files there are not text)" if sources.skipped else ""
        raise DataError(f"there is no text in {named}{skipped}; expected at least one document that isn't empty")
    return Survey(len(hashes), size, np.array(hashes, np.uint64))


def _hold_out(survey: Survey, fraction: float) -> HeldOut:
    if not 0 < fraction < 1:
        raise DataError(f"--valid-fraction {fraction}: expected a share in (0, 1), such as 0.01")
    distinct, counts = np.unique(survey.hashes, return_counts=True)
    if len(distinct) < _FEW:
        return HeldOut(fraction, None)
    chosen = max(1, int(np.searchsorted(np.cumsum(counts), survey.documents * fraction, side="right")))
    return HeldOut(fraction, int(distinct[min(chosen, len(distinct) - 1) - 1]))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _sample(texts: Iterator[str], total: int) -> Iterator[str]:
    """Yield lines spread evenly over the text, about `_TOKENIZER_BYTES` of them."""
    share = min(1.0, _TOKENIZER_BYTES / total)
    owed = 0.0
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), _LONGEST_LINE):
                part = line[start : start + _LONGEST_LINE]
                owed += len(part) * share
                if owed > 0:
                    owed -= len(part)
                    yield part


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
