"""Encoding over several processes: the result and its order don't depend on how many there are."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import numpy as np

from lost.errors import WorkerLostError
from lost.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, order=True)
class SourcePosition:
    """A position in the sources: after all units before `unit`, and the first `documents` of it; `read` in all."""

    unit: int
    documents: int
    read: int = field(default=0, compare=False)


START = SourcePosition(0, 0)


@dataclass
class Batch:
    """Documents that are encoded together.

    Attributes:
        texts: of each split.
        order: the splits' names, document by document.
        size: characters in them.
        end: where they end.
    """

    texts: dict[str, list[str]]
    order: list[str]
    size: int
    end: SourcePosition


@dataclass(frozen=True)
class Encoded:
    """What became of a batch: of each split the ids (n,), and the bytes of each document's text."""

    splits: dict[str, tuple[np.ndarray, list[int]]]
    order: list[str]
    end: SourcePosition


def encoded(
    batches: Iterator[Batch], tokenizer: Tokenizer, folder: Path, workers: int
) -> Generator[Encoded, None, None]:
    """Encode batches, and yield them in their order.

    Args:
        batches: read as they are needed.
        tokenizer: to use.
        folder: in which it was saved, for other processes.
        workers: processes; with one, this one does it.

    Raises:
        WorkerLostError: the system ended one of them.
    """
    if workers == 1:
        yield from (_encode(tokenizer, batch) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")  # a fork would take along threads of libraries, half-way
    with ProcessPoolExecutor(workers, context, _begin, (folder,)) as pool:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_encode_there, batch))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise WorkerLostError(
                f"one of {workers} processes that encode is gone; expected the system to let them run (did the memory "
                "run out?); give the same command again, with fewer --workers if need be: it goes on from there"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer


def _begin(folder: Path) -> None:
    """Make a process ready, and have it end with the one that started it, however that ends."""
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the first process tells the others
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    Thread(target=leave, daemon=True).start()
    _tokenizer = load_tokenizer(folder)


def _encode_there(batch: Batch) -> Encoded:
    return _encode(_tokenizer, batch)


def _encode(tokenizer: Tokenizer, batch: Batch) -> Encoded:
    def split(texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        ids = tokenizer.encode_documents(texts).astype(np.int32)  # half of what goes between processes
        return ids, [len(text.encode()) for text in texts]

    return Encoded({name: split(texts) for name, texts in batch.texts.items()}, batch.order, batch.end)
