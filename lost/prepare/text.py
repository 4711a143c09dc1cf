"""From documents to a prepared set: survey the text, choose what is held out, train a tokenizer, write token shards.

What was written is noted now and then, so that the same command goes on where an earlier one was interrupted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from lost.data.dataset import DESCRIPTION, TRAIN, VALID, SplitWriter, write_description
from lost.errors import DataError
from lost.prepare.encode import Batch, Place, encoded
from lost.prepare.holdout import HeldOut, hold_out, survey, tokenizer_text
from lost.prepare.resume import FILE as JOURNAL
from lost.prepare.resume import Journal, read_journal
from lost.prepare.sources import Sources
from lost.storage.failpoints import failpoint
from lost.storage.files import flush, partial_folder, publish, storage
from lost.storage.lock import FILE as LOCK
from lost.storage.lock import locked
from lost.storage.nofollow import check_folder, remove
from lost.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

_BATCH_CHARACTERS = 1 << 20
_SAVE_SECONDS = 10.0
_WORKER_BYTES = 8 << 20  # of text that make another process worth its start


class ProgressCallback(Protocol):
    """Is told where a phase stands: bytes done, bytes in all or 0 if that isn't known, and what they hold."""

    def __call__(self, phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        """Take note."""


def unseen(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
    """Show nothing."""


def prepare(
    sources: Sources,
    out: Path,
    tokenizer: Tokenizer | int,
    valid: Sources | float,
    progress: ProgressCallback = unseen,
    overwrite: bool = False,
    workers: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a prepared set, or go on with one that was interrupted.

    Args:
        sources: the training text.
        out: the folder to make; it appears only when it is complete.
        tokenizer: an existing one, or the size of the vocabulary to train.
        valid: text of its own for validation, or the share of `sources` to hold out, in (0, 1).
        progress: shown.
        overwrite: replace a set that is already there, and the beginning of another.
        workers: processes that encode; the result doesn't depend on it.
        tell: told what else there is to know.

    Returns:
        The entries of both splits, as in `dataset.json`.

    Raises:
        DataError: no text, text that can't be read, a vocabulary that doesn't suit it, a set that is already there, or
            the beginning of another.
        UnreachableError: text from elsewhere could not be read on.
        WorkerLostError: a process that encodes was ended.
        RunBusyError: another job makes this set.
    """
    own = valid if isinstance(valid, Sources) else None
    if not isinstance(valid, Sources):
        check_share(valid)
    elif again := set(sources.remote) & set(valid.remote) if sources.choice == valid.choice else ():
        raise DataError(
            f"{', '.join(sorted(again))} would be trained on and validated with; expected different text; name another "
            "split with --valid-split, or hold out a share with --valid-fraction"
        )
    read = [*sources.local, *(own.local if own else [])]
    check_place(out, read, overwrite)
    leave_out = [*sources.leave_out, out, *(own.local if own else [])]
    sources = replace(sources, leave_out=leave_out)  # shares `skipped` with the caller's
    arguments = _arguments(sources, tokenizer, valid)
    partial = own_folder(out)
    with storage(out), locked(partial, tell):
        journal = read_journal(partial, arguments, overwrite)
        try:
            check_place(out, read, overwrite)  # again: another command may just have made it
            if journal:
                documents = sum(split["documents"] for split in journal.splits.values())
                tell(f"going on with {out}: {documents:,} documents were encoded already")
            else:
                journal = _begin(partial, arguments, sources, tokenizer, valid, progress)
            splits = _encode(partial, journal, sources, own, progress, workers)
            publish(partial, out, overwrite)  # with its journal: until then it can be gone on with
            for name in (JOURNAL, LOCK):
                remove(out / name)
        except BaseException as error:
            if isinstance(error, DataError) or not (partial / JOURNAL).exists():
                remove(partial)  # nothing to go on from
            raise
    return splits


def own_folder(out: Path) -> Path:
    """Return the folder that is to become a set, beside it; it may hold what an earlier command began.

    Raises:
        StorageError: a link or a file stands in its place, which is not to be followed, nor to be removed.
    """
    partial = partial_folder(out)
    with storage(partial):
        check_folder(partial)
    return partial


def check_share(fraction: float) -> None:
    """See that a share of the text can be held out.

    Raises:
        DataError: it is no share.
    """
    if not 0 < fraction < 1:
        raise DataError(f"--valid-fraction {fraction}: expected a share in (0, 1), such as 0.01")


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


def _arguments(sources: Sources, tokenizer: Tokenizer | int, valid: Sources | float) -> dict[str, Any]:
    """Return what decides the result, as JSON has it."""
    return {
        **sources.described(),
        "tokenizer": f"{tokenizer} entries" if isinstance(tokenizer, int) else tokenizer.fingerprint,
        "validation": valid.described() if isinstance(valid, Sources) else valid,
    }


def _begin(
    partial: Path,
    arguments: dict[str, Any],
    sources: Sources,
    tokenizer: Tokenizer | int,
    valid: Sources | float,
    progress: ProgressCallback,
) -> Journal:
    """Look at all of the text, and note what is to be done with it."""
    empty(partial)
    found = survey(sources, lambda documents, size: progress("reading", size, 0, documents))
    held_out = None if isinstance(valid, Sources) else hold_out(found, valid)
    if isinstance(tokenizer, int):
        progress("training the tokenizer", 0, 0)
        tokenizer = train_tokenizer(tokenizer_text(sources, held_out, found), tokenizer)
    tokenizer.save(partial)
    for name in tokenizer.files:
        flush(partial / name)
    plan = {
        "held_out": asdict(held_out) if held_out else None,
        "bytes": found.bytes if found.whole else 0,
        "skipped": [str(path) for path in sources.skipped],
    }
    return Journal(arguments, plan)


def empty(partial: Path) -> None:
    """Remove what another command left in a set that isn't finished, whose lock is held."""
    for path in partial.iterdir():
        if path.name != LOCK:
            remove(path)


def _encode(
    partial: Path, journal: Journal, sources: Sources, own: Sources | None, progress: ProgressCallback, workers: int
) -> dict[str, Any]:
    """Write the shards and their description."""
    plan, total = journal.plan, journal.plan["bytes"]
    tokenizer = load_tokenizer(partial)
    held_out = HeldOut(**plan["held_out"]) if plan["held_out"] else None
    writers = {name: SplitWriter(partial, name, tokenizer, journal.splits.get(name)) for name in (TRAIN, VALID)}

    def save() -> None:
        journal.splits = {name: writer.state() for name, writer in writers.items()}
        journal.save(partial)

    save()
    saved = time.monotonic()
    batches = _batches(sources, own, held_out, journal.place)
    for batch in encoded(batches, tokenizer, partial, min(workers, 1 + total // _WORKER_BYTES) if total else workers):
        for name, (ids, documents, size) in batch.splits.items():
            writers[name].append(ids, documents, size)
        journal.place = batch.end
        failpoint("prepare.batch")
        if time.monotonic() - saved >= _SAVE_SECONDS:
            save()
            saved = time.monotonic()
        documents, tokens = (
            sum(getattr(each, count) for each in writers.values()) for count in ("documents", "tokens")
        )
        size = writers[TRAIN].bytes + (
            0 if own else writers[VALID].bytes
        )  # validation text of its own isn't in `total`
        progress("encoding", size, total, documents, tokens)
    splits = {name: writer.close() for name, writer in writers.items()}
    for name, split in splits.items():
        if not split["documents"]:
            raise DataError(f"the {name} split would be empty; expected text in it; add text or --valid-fraction")
    sources.skipped[:] = dict.fromkeys([*map(Path, plan["skipped"]), *sources.skipped])
    write_description(partial, tokenizer, splits, sources.origin())
    return splits


def _batches(sources: Sources, own: Sources | None, held_out: HeldOut | None, begin: Place) -> Iterator[Batch]:
    """Yield the text from a place on, that of `sources` first, then the validation's own."""

    def parts() -> Iterator[tuple[Iterator[str], Callable[[str], tuple[str, str]]]]:
        for unit in sources.units():
            yield unit.documents(), held_out.split if held_out else lambda text: (text, "")
        for unit in own.units() if own else ():
            yield unit.documents(), lambda text: ("", text)

    batch = Batch({TRAIN: [], VALID: []}, 0, begin)
    for unit, (documents, split) in enumerate(parts()):
        if unit < begin.unit:
            continue  # not even opened
        done = begin.documents if unit == begin.unit else 0
        for number, text in enumerate(documents, 1):
            if number <= done:
                continue
            for name, part in zip((TRAIN, VALID), split(text), strict=True):
                if part:
                    batch.texts[name].append(part)
            batch.size += len(text)
            if batch.size >= _BATCH_CHARACTERS:
                yield replace(batch, end=Place(unit, number))
                batch = Batch({TRAIN: [], VALID: []}, 0, begin)
    if batch.size:
        yield replace(batch, end=Place(unit + 1, 0))
