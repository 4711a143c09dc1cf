"""Preparation of text: read it once, choose what is held out, train a tokenizer, write token shards.

Its state is saved now and then, so that the same command resumes where an earlier one was interrupted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from lost.data.dataset import TRAIN, VALID
from lost.data.writer import SplitWriter, write_description
from lost.errors import DataError
from lost.prepare.cap import Cap
from lost.prepare.encode import Batch, Encoded, SourcePosition, encoded
from lost.prepare.holdout import (
    HeldOut,
    check_apart,
    check_share,
    check_validation,
    hold_out,
    text_stats,
    tokenizer_text,
)
from lost.prepare.output import ProgressCallback, prepared_set, unsaid, unseen
from lost.prepare.reading.hub import repository
from lost.prepare.resume import PrepareState
from lost.prepare.sources import Sources
from lost.storage.failpoints import failpoint
from lost.storage.files import flush
from lost.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

_BATCH_CHARACTERS = 1 << 20
_SAVE_SECONDS = 10.0
_WORKER_BYTES = 8 << 20  # of text that make another process worth its start


def prepare(
    sources: Sources,
    out: Path,
    tokenizer: Tokenizer | int,
    valid: Sources | float,
    progress: ProgressCallback = unseen,
    overwrite: bool = False,
    workers: int = 1,
    log: Callable[[str], None] = unsaid,
) -> dict[str, Any]:
    """Write a prepared set, or resume one that was interrupted.

    Args:
        sources: the training text.
        out: the folder to make; it appears only when it is complete.
        tokenizer: an existing one, or the size of the vocabulary to train.
        valid: text of its own for validation, or the share of `sources` to hold out, in (0, 1).
        progress: shown.
        overwrite: replace a set that is already there, and the beginning of another.
        workers: processes that encode; the result doesn't depend on it.
        log: told what else a user should know.

    Returns:
        The entries of both splits, as in `dataset.json`.

    Raises:
        DataError: no text, text that can't be read, a vocabulary that doesn't suit it, a set that is already there, or
            the beginning of another.
        UnreachableError: text from elsewhere could not be read on.
        WorkerLostError: a process that encodes was ended.
        RunBusyError: another job makes this set.
    """
    if isinstance(valid, Sources) and valid.choice.revision == sources.choice.revision:
        valid = replace(valid, commits=sources.commits)  # both splits are of one commit
    own = valid if isinstance(valid, Sources) else None
    if not isinstance(valid, Sources):
        check_share(valid)
    elif again := _in_both(sources, valid):
        raise DataError(
            f"{', '.join(again)} would be trained on and validated with; expected different text; name another "
            "split with --valid-split, or hold out a share with --valid-fraction"
        )
    if own and not sources.remote:
        check_apart(sources.local, own.local)
    read = [*sources.local, *(own.local if own else [])]
    leave_out = [*sources.leave_out, out, *(own.local if own else [])]
    sources = replace(sources, leave_out=leave_out)  # shares `skipped` with the caller's
    arguments = _arguments(sources, tokenizer, valid)
    with prepared_set(out, read, arguments, overwrite, log) as (folder, state):
        if state:
            documents = sum(split["documents"] for split in state.splits.values())
            log(f"resuming {out}: {documents:,} documents were encoded already")
        else:
            state = _begin(folder, arguments, sources, tokenizer, valid, progress)
        return _encode(folder, state, sources, own, progress, workers)


def _in_both(sources: Sources, own: Sources) -> list[str]:
    """Return the names of data sets of which the same part is training and validation text."""
    if sources.choice != own.choice:
        return []
    held_out = set(map(repository, own.remote))
    return sorted({name for name in sources.remote if repository(name) in held_out})


def _arguments(sources: Sources, tokenizer: Tokenizer | int, valid: Sources | float) -> dict[str, Any]:
    """Return what decides the result, as JSON has it."""
    return {
        **sources.described(),
        "tokenizer": f"{tokenizer} entries" if isinstance(tokenizer, int) else tokenizer.fingerprint,
        "validation": valid.described() if isinstance(valid, Sources) else valid,
    }


def _begin(
    folder: Path,
    arguments: dict[str, Any],
    sources: Sources,
    tokenizer: Tokenizer | int,
    valid: Sources | float,
    progress: ProgressCallback,
) -> PrepareState:
    """Read all of the text once, and decide what is to be done with it."""
    own = valid if isinstance(valid, Sources) else None
    if own:
        check_validation(own, lambda documents, size: progress("reading validation", size, 0, documents))
    stats = text_stats(sources, lambda documents, size: progress("reading", size, 0, documents))
    left_out = _left_out(sources)  # now: the next pass may end early
    held_out = None if isinstance(valid, Sources) else hold_out(stats, valid)
    if isinstance(tokenizer, int):
        progress("training the tokenizer", 0, 0)
        tokenizer = train_tokenizer(tokenizer_text(sources, held_out, stats), tokenizer)
    tokenizer.save(folder)
    for name in tokenizer.files:
        flush(folder / name)
    plan = {
        "held_out": asdict(held_out) if held_out else None,
        "bytes": stats.bytes if stats.complete else 0,
        **left_out,
        "validation": _left_out(own) if own else {},
    }
    return PrepareState(arguments, plan)


def _left_out(sources: Sources) -> dict[str, list[str]]:
    """Return which files were left out as sources were read, as JSON has it."""
    return {"skipped": [str(path) for path in sources.skipped], "links": [str(path) for path in sources.links]}


def _add_left_out(sources: Sources, before: dict[str, Any]) -> None:
    """Add what an earlier pass left out, each file once: states of earlier versions don't have all of it."""
    for key, paths in (("skipped", sources.skipped), ("links", sources.links)):
        paths[:] = dict.fromkeys([*map(Path, before.get(key, ())), *paths])


def _encode(
    folder: Path, state: PrepareState, sources: Sources, own: Sources | None, progress: ProgressCallback, workers: int
) -> dict[str, Any]:
    """Write the shards and their description."""
    plan, total, cap = state.plan, state.plan["bytes"], sources.cap or Cap()
    tokenizer = load_tokenizer(folder)
    held_out = HeldOut(**plan["held_out"]) if plan["held_out"] else None
    writers = {name: SplitWriter(folder, name, tokenizer, state.splits.get(name)) for name in (TRAIN, VALID)}

    def reached(position: SourcePosition) -> PrepareState:
        return replace(state, position=position, splits={name: writer.state() for name, writer in writers.items()})

    def save() -> None:
        for writer in writers.values():
            writer.flush()
        state.save(folder)

    state = reached(state.position)
    save()
    saved = time.monotonic()
    expected = total or cap.most_bytes
    workers = min(workers, 1 + expected // _WORKER_BYTES) if expected else workers
    text = _Text(sources, own, held_out)

    def tokens() -> int:
        return sum(writer.tokens for writer in writers.values())

    def encoded_from(position: SourcePosition) -> Iterator[Encoded]:
        with closing(encoded(text.batches(position), tokenizer, folder, workers)) as batches:
            for batch in batches:
                if cap.tokens and batch.end <= text.sources_end:
                    batch, cut = cap.cut(batch, tokens(), tokenizer.end_of_text)
                    if cut:  # what was read ahead is dropped
                        yield replace(batch, end=text.sources_end)
                        break
                yield batch
            else:
                return
        yield from encoded_from(text.sources_end)

    try:
        for batch in encoded_from(state.position):
            for name, (ids, sizes) in batch.splits.items():
                writers[name].append(ids, len(sizes), sum(sizes))
            state = reached(batch.end)  # in one go: what an interruption saves is whole
            failpoint("prepare.batch")
            if time.monotonic() - saved >= _SAVE_SECONDS:
                save()
                saved = time.monotonic()
            documents = sum(writer.documents for writer in writers.values())
            # Validation text of its own isn't in `total`.
            size = writers[TRAIN].bytes + (0 if own else writers[VALID].bytes)
            progress("encoding", size, total, documents, tokens())
    except KeyboardInterrupt:
        save()
        raise
    splits = {name: writer.close() for name, writer in writers.items()}
    for name, split in splits.items():
        if not split["documents"]:
            remedy = "raise --max-tokens" if cap.tokens else "add text"
            raise DataError(f"the {name} split would be empty; expected text in it; {remedy} or --valid-fraction")
    _add_left_out(sources, plan)
    if own:
        _add_left_out(own, plan.get("validation", {}))
    validation = {"validation": own.origin()} if own else {}
    write_description(folder, tokenizer, splits, {**sources.origin(), **validation})
    return splits


class _Text:
    """All text in the order in which it is encoded: that of the sources, split, then the validation's own.

    Its units are listed as they are read: there may be millions.
    """

    def __init__(self, sources: Sources, own: Sources | None, held_out: HeldOut | None) -> None:
        self._sources, self._own = sources, own
        self._split = held_out.split if held_out else lambda text: (text, "")

    @cached_property
    def sources_end(self) -> SourcePosition:
        """The position between both, for which the sources' units are counted."""
        return SourcePosition(sum(1 for _ in self._sources.units()), 0)

    def batches(self, begin: SourcePosition) -> Iterator[Batch]:
        """Yield the text from a position on; none holds text of both."""
        read, batch, listed = begin.read, Batch({TRAIN: [], VALID: []}, [], 0, begin), 0
        most = self._sources.cap.documents if self._sources.cap else None
        for sources, split in ((self._sources, self._split), (self._own, lambda text: ("", text))):
            for unit, part in enumerate(sources.units() if sources else (), listed):
                listed = unit + 1
                done = begin.documents if unit == begin.unit else 0
                last = None if most is None or sources is self._own else done + most - read
                if unit < begin.unit or last == done:
                    continue  # not even opened
                for number, text in enumerate(islice(part.documents(), done, last), done + 1):
                    read += 1
                    for name, piece in zip((TRAIN, VALID), split(text), strict=True):
                        if piece:
                            batch.texts[name].append(piece)
                            batch.order.append(name)
                    batch.size += len(text)
                    if batch.size >= _BATCH_CHARACTERS:
                        yield replace(batch, end=SourcePosition(unit, number, read))
                        batch = Batch({TRAIN: [], VALID: []}, [], 0, begin)
            if batch.size:
                yield replace(batch, end=SourcePosition(listed, 0, read))
                batch = Batch({TRAIN: [], VALID: []}, [], 0, begin)
