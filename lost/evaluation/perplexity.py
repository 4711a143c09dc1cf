"""Perplexity and bits per byte: token-weighted, over text (or targets), every token predicted exactly once."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lost.data.batch import Batch
from lost.data.dataset import Split
from lost.data.evaluation import evaluation_batches, example_batches
from lost.distributed.group import Workers
from lost.engine import Engine
from lost.errors import DataError
from lost.prepare.sources import Sources
from lost.tokenizer import Tokenizer


def perplexity(loss: float) -> float:
    """Return exp of a loss in nats; infinity where that is more than a float holds."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model on a text.

    Attributes:
        nll: summed negative log-likelihood, natural log.
        tokens: number of predictions in the sum.
        batches: number of batches.
        bytes: UTF-8 bytes of the text; None when only part of a prepared set was evaluated.
    """

    nll: float
    tokens: int
    batches: int
    bytes: int | None = None

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood a token, in nats."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens); infinity where that is more than a float holds."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of the text, comparable across tokenizers."""
        return self.nll / math.log(2) / self.bytes if self.bytes else None

    def figures(self) -> dict[str, float | None]:
        """Return loss, perplexity, bits per byte, and over how many tokens, by their names in JSON."""
        found = {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}
        return {**found, "tokens": self.tokens}

    def information_capacity(self, flops: float) -> float | None:
        """Bits that the model saves of a token's text, a unit of log2 of the FLOPs that reading a token takes.

        As arXiv 2511.08066 defines it, without the constants that its authors add for their own texts. Comparable on
        one text only.
        """
        if not self.bytes:
            return None
        return (8 * self.bytes - self.nll / math.log(2)) / self.tokens / math.log2(flops)

    @property
    def lineage_perplexity(self) -> float:
        """Perplexity as scripts derived from GaLore print it: their batch counter starts at 1, so that the mean loss
        over N batches is too small by a factor of N / (N + 1). Only for comparison with papers.
        """
        return perplexity(self.loss * self.batches / (self.batches + 1))


def evaluate(
    engine: Engine,
    tokens: np.ndarray,
    seq_len: int,
    batch_size: int,
    *,
    text_bytes: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate a model on tokens (n,), the first of which is context only.

    Args:
        engine: holds the model.
        tokens: ids, beginning with the one that the text is read after.
        seq_len: tokens in a window.
        batch_size: windows at once; affects only speed, memory and `lineage_perplexity`.
        text_bytes: bytes of the text.
        check: called before each round of batches, on all workers alike; its exceptions end the evaluation.
    """
    batches = evaluation_batches(tokens, seq_len, batch_size)
    return _measured(engine, batches, len(tokens) - 1, text_bytes, check)


def evaluate_split(
    engine: Engine,
    split: Split,
    seq_len: int,
    batch_size: int,
    *,
    limit: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate a model on a split of a prepared set: on all of its tokens, or on its targets where it has such.

    Args:
        engine: holds the model.
        split: the text, or the examples.
        seq_len: tokens in a window.
        batch_size: windows at once.
        limit: predictions to stop after (with targets, at the end of the window), of splits that are joined each its
            share; None: all.
        check: as in `evaluate`.
    """
    if split.parts and limit and limit < split.predictions:
        shares = [max(1, round(limit * part.predictions / split.predictions)) for part in split.parts]
        measured = [
            evaluate_split(engine, part, seq_len, batch_size, limit=share, check=check)
            for part, share in zip(split.parts, shares, strict=True)
        ]
        nll, count = math.fsum(each.nll for each in measured), sum(each.tokens for each in measured)
        return Evaluation(nll, count, sum(each.batches for each in measured))
    if split.loss_mask is not None:
        batches = example_batches(split, seq_len, batch_size, limit)
        return _measured(engine, batches, split.loss_mask.tokens, split.loss_mask.bytes, check)
    tokens = split.read(0, min(split.tokens, limit + 1 if limit else split.tokens))
    whole = split.bytes if len(tokens) == split.tokens else None
    return evaluate(engine, tokens, seq_len, batch_size, text_bytes=whole, check=check)


def _measured(
    engine: Engine, batches: Iterable[Batch], whole: int, text_bytes: int | None, check: Callable[[], None]
) -> Evaluation:
    """Evaluate on batches; `text_bytes` are those of the text that `whole` predictions stand for."""
    counting, workers = _Counted(batches), engine.workers
    nll, count = engine.evaluate(_local_batches(counting, workers, check))
    nll, count = workers.all_reduce(nll), int(workers.all_reduce(count))
    return Evaluation(nll, count, counting.seen, text_bytes if count == whole else None)


def text_tokens(tokenizer: Tokenizer, path: Path, note: Callable[[str], None], begin: int) -> tuple[np.ndarray, int]:
    """Return the tokens (n,) of a text, with end-of-text between documents, and its length in UTF-8 bytes.

    Args:
        tokenizer: makes the tokens.
        path: a file or a folder.
        note: told which files of a folder are left out.
        begin: the token that it is read after, which stands first.

    Raises:
        DataError: there is no text.
    """
    if not path.exists():
        raise DataError(f"{path} doesn't exist; expected a file or a folder with text; name one")
    sources = Sources([path])
    documents = list(sources.documents())
    for remark in sources.remarks():
        note(remark)
    if not documents:
        raise DataError(f"{path} is empty; expected text")
    tokens = np.concatenate([[begin], tokenizer.encode_documents(documents)[:-1]])
    return tokens, sum(len(document.encode()) for document in documents)


class _Counted:
    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches, self.seen = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.seen += 1
            yield batch


def _local_batches(batches: Iterable[Batch], workers: Workers, check: Callable[[], None]) -> Iterator[Batch]:
    """Yield this worker's batches, one a round; in the last round some workers get a batch without predictions."""
    remaining = iter(batches)
    while group := list(islice(remaining, workers.world_size)):
        check()
        tokens = group[0].tokens
        padding = Batch(tokens, np.zeros_like(tokens[:, 1:], bool))
        yield group[workers.rank] if workers.rank < len(group) else padding
