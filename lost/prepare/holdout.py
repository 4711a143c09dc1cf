"""First pass over the text: how much it is, what to hold out, what to train a tokenizer on."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from lost.errors import DataError
from lost.prepare.sources import Sources
from lost.storage.nofollow import is_within

_TOKENIZER_BYTES = 16 << 20  # text that the tokenizer is trained on: more changes next to nothing
_LONGEST_LINE = 4096  # of what it is trained on: its trainer skips longer ones
_FEW = 20  # with fewer documents, an entire one would be too large a share to hold out
_MANY = 1 << 20  # with more, the share of hashes below a threshold is the threshold's, and none need to be kept
_AROUND = 2  # tokens at most that a document has besides those of its bytes: a space before it, its end of text
_UNEVEN = 4  # times more, or less, than was to be held out are worth a word
_REMOTE_BYTES = 64 << 20  # of text from elsewhere, or of which so many tokens are taken, that is read twice


@dataclass(frozen=True)
class TextStats:
    """Size of the text, and what tells its documents apart.

    Attributes:
        documents: how many were read.
        bytes: their size in UTF-8.
        complete: whether that is all that is taken; of text from elsewhere, and under a cap on tokens, the beginning is
            read.
        hashes: of the documents, where there are few enough to count them exactly, else none.
        sure: how many of them, from the first, are taken whatever the tokenizer: no token is less than a byte.
    """

    documents: int
    bytes: int
    complete: bool
    hashes: np.ndarray
    sure: int


@dataclass(frozen=True)
class HeldOut:
    """Rule of what is validation text: entire documents if there are enough of them, else the end of each document."""

    fraction: float
    largest_hash: int | None
    """Documents whose hash is at most this are held out (equal documents together); None: ends are held out."""
    frequent: Sequence[int] = ()
    """Hashes of documents that stay although theirs is, because each with its copies is more than the share."""
    needed: Sequence[int] = ()
    """Hashes of documents that are held out although theirs is larger, because no other is sure to be taken."""

    def split(self, text: str) -> tuple[str, str]:
        """Return (training text, validation text) of one document."""
        if self.largest_hash is not None:
            number = _hash(text)
            out = (number <= self.largest_hash and number not in self.frequent) or number in self.needed
            return ("", text) if out else (text, "")
        cut = self._cut(text)
        return text[:cut], text[cut:]

    def _cut(self, text: str) -> int:
        """Return where the held-out end begins: after a line, else after a word, else anywhere."""
        wanted = int(len(text) * (1 - self.fraction))
        nearby = max(0, wanted - max(min(200, wanted // 10), len(text) - wanted))
        for border in ("\n", " "):
            if (end := text.rfind(border, nearby, wanted)) >= 0:
                return end + 1
        return wanted


def text_stats(sources: Sources, progress: Callable[[int, int], None]) -> TextStats:
    """Read local text once, and the beginning of text from elsewhere, or of which only so many tokens are taken.

    Args:
        sources: of the text.
        progress: told the documents and bytes read so far.

    Raises:
        DataError: there is no text, or some that can't be read.
    """
    hashes, documents, size, sure = array("Q"), 0, 0, 0
    tokens, most = (sources.cap.tokens, sources.cap.most_bytes) if sources.cap else (None, None)
    limit = min(_REMOTE_BYTES, most or _REMOTE_BYTES) if sources.remote or most else None
    complete = tokens is None
    for text in sources.documents():
        if limit is not None and size >= limit:
            complete = False
            break
        documents += 1
        size += len(text.encode())
        if documents <= _MANY:
            hashes.append(_hash(text))
        if tokens is None or size + _AROUND * documents <= tokens:
            sure = documents
        progress(documents, size)
    if not documents:
        raise _no_text(sources)
    countable = (complete or tokens) and documents <= _MANY
    return TextStats(documents, size, complete, np.array(hashes if countable else [], np.uint64), sure)


def check_validation(own: Sources, progress: Callable[[int, int], None]) -> None:
    """Read local validation text once, and a document of each data set of the hub.

    It is encoded last: what is wrong with it is said here, before the training text is encoded, not hours later.

    Args:
        own: the validation text.
        progress: told the documents and bytes read so far.

    Raises:
        DataError: there is none, or some that can't be read.
    """
    documents = size = 0
    for part in (*(replace(own, paths=[name]) for name in own.remote), replace(own, paths=own.local)):
        for text in islice(part.documents(), 1 if part.remote else None):
            documents += 1
            size += len(text.encode())
            progress(documents, size)
    if not documents:
        raise _no_text(own)


def _no_text(sources: Sources) -> DataError:
    named = ", ".join(str(path) for path in sources.paths)
    skipped = f" ({len(sources.skipped)} files there are not text)" if sources.skipped else ""
    chosen = " under names that --include and --exclude leave" if sources.include or sources.exclude else ""
    return DataError(f"there is no text in {named}{chosen}{skipped}; expected at least one document that isn't empty")


def check_share(fraction: float) -> None:
    """See that a share of the text can be held out.

    Raises:
        DataError: it is no share.
    """
    if not 0 < fraction < 1:
        raise DataError(f"--valid-fraction {fraction}: expected a share in (0, 1), such as 0.01")


def check_apart(training: Sequence[Path], validation: Sequence[Path]) -> None:
    """See that files or folders leave something to train on once validation text is left out.

    Raises:
        DataError: all of them are validation text.
    """
    if training and all(is_within(path, validation) for path in training):
        raise DataError(
            f"{', '.join(map(str, training))} would be trained on and validated with; expected different text; name "
            "others with --valid, or hold out a share with --valid-fraction"
        )


def hold_out(stats: TextStats, fraction: float) -> HeldOut:
    """Choose what is held out: a share in (0, 1)."""
    if not len(stats.hashes):
        return HeldOut(fraction, int(fraction * 2**64))
    distinct, counts = np.unique(stats.hashes, return_counts=True)
    wanted = stats.documents * fraction
    rare = counts <= max(1, wanted)
    candidates = distinct[rare]
    sure = np.intersect1d(candidates, stats.hashes[: stats.sure])
    chosen = max(1, int(np.searchsorted(np.cumsum(counts[rare]), wanted, side="right")))
    largest = candidates[min(chosen, len(candidates) - 1) - 1] if len(candidates) else 0
    if len(candidates) < _FEW or len(sure) < 2 or sure[-1] <= largest:  # nothing might be held out, or all
        return HeldOut(fraction, None)
    needed = [int(sure[0])] if sure[0] > largest else []
    return HeldOut(fraction, int(largest), distinct[~rare & (distinct <= largest)].tolist(), needed)


def uneven(training: int, validation: int, fraction: float) -> str:
    """Return what a user should know where the bytes held out are far from the share asked for, else ""."""
    share = validation / (training + validation)
    if fraction / _UNEVEN <= share <= fraction * _UNEVEN:
        return ""
    return (
        f"{share:.2%} of the text is held out for validation, not {fraction:.2%}: documents are held out whole, or "
        "cut after a line or a word, and they differ in length; for another share, change --valid-fraction, or name "
        "validation text with --valid"
    )


def tokenizer_text(sources: Sources, held_out: HeldOut | None, stats: TextStats) -> Iterator[str]:
    """Yield lines spread evenly over the training text that was read, about `_TOKENIZER_BYTES` of them."""
    share = min(1.0, _TOKENIZER_BYTES / stats.bytes)
    owed = 0.0
    for text in islice(sources.documents(), stats.documents):
        for line in (held_out.split(text)[0] if held_out else text).splitlines():
            for start in range(0, len(line), _LONGEST_LINE):
                part = line[start : start + _LONGEST_LINE]
                owed += len(part) * share
                if owed > 0:
                    owed -= len(part)
                    yield part


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
