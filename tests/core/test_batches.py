"""Each sample once an epoch, each token of an evaluation once, whatever the batch and shard borders."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lost.data.batch import Batch
from lost.data.dataset import TRAIN, Dataset, Split
from lost.data.evaluation import evaluation_batches
from lost.data.loader import TrainingStream
from lost.errors import DataError


def split_of(tokens: int, shard: int, vocab_size: int = 10_000) -> Split:
    """A split whose token at place i is i, over shards of the given length."""
    values = np.arange(tokens, dtype=np.uint16)
    starts = list(range(0, tokens, shard))
    return Split(TRAIN, tokens, tokens, 1, vocab_size, [values[start : start + shard] for start in starts], starts)


@pytest.mark.parametrize("shard", [1000, 7])
def test_an_epoch_predicts_each_token_once(shard: int) -> None:
    stream = TrainingStream(split_of(83, shard), seq_len=8, seed=5)
    assert stream.windows == 10
    for epoch in range(2):
        rows = np.concatenate([stream.batch(epoch * 10 + first, 2).tokens for first in range(0, 10, 2)])
        np.testing.assert_array_equal(np.diff(rows), 1)  # windows are contiguous text
        assert Counter(rows[:, 1:].flatten().tolist()) == Counter(range(1, 81))


def test_samples_do_not_depend_on_the_batch_shape() -> None:
    stream, again = (TrainingStream(split_of(500, 64), 8, 0) for _ in range(2))
    whole = stream.batch(30, 60).tokens  # runs over the end of an epoch
    parts = np.concatenate([again.batch(first, 5).tokens for first in range(30, 90, 5)])
    np.testing.assert_array_equal(whole, parts)
    assert not np.array_equal(stream.batch(0, 20).tokens, stream.batch(stream.windows, 20).tokens)


@pytest.mark.parametrize(("length", "seq_len", "batch"), [(2, 8, 4), (9, 8, 4), (10, 8, 4), (100, 8, 3), (97, 8, 64)])
def test_evaluation_counts_each_prediction_once(length: int, seq_len: int, batch: int) -> None:
    seen: Counter[int] = Counter()
    for each in evaluation_batches(np.arange(length), seq_len, batch):
        mask = np.ones_like(each.tokens[:, 1:], bool) if each.mask is None else each.mask
        seen.update(each.tokens[:, 1:][mask].tolist())
        assert each.predictions == mask.sum()
        assert len(each.tokens) <= batch
    assert seen == Counter(range(1, length))


def test_evaluation_gives_the_last_window_its_context() -> None:
    *_, last = evaluation_batches(np.arange(20), 8, 4)
    np.testing.assert_array_equal(last.tokens, [np.arange(11, 20)])
    assert last.predictions == 3


def test_nothing_to_evaluate() -> None:
    with pytest.raises(DataError, match="there are 1 tokens"):
        list(evaluation_batches(np.arange(1), 8, 4))


def test_sequence_longer_than_the_data() -> None:
    with pytest.raises(DataError, match=r"data.seq_len = 83: the train split holds only 83 tokens"):
        TrainingStream(split_of(83, 83), 83, 0)


def test_id_beyond_the_vocabulary() -> None:
    with pytest.raises(DataError, match="token id 82 at token 82 of the train split is beyond the vocabulary of 50"):
        split_of(83, 83, vocab_size=50).read(0, 83)


def test_id_beyond_what_int32_holds() -> None:
    split = Split(TRAIN, 2, 2, 1, 100_000, [np.array([1, 2**31 + 5], np.uint32)], [0])
    with pytest.raises(DataError, match="token id 2147483653"):
        split.read(0, 2)


def test_reads_what_was_prepared(prepared: Dataset) -> None:
    split = prepared.split(TRAIN)
    ids = split.read(0, split.tokens)
    end = prepared.tokenizer.end_of_text
    assert ids[0] == ids[-1] == end
    assert (ids == end).sum() == split.documents + 1
    assert split.bytes == sum(len(text.encode()) for text in documents(prepared, ids))


def documents(dataset: Dataset, ids: np.ndarray) -> list[str]:
    borders = np.flatnonzero(ids == dataset.tokenizer.end_of_text)
    return [dataset.tokenizer.decode(ids[start + 1 : end].tolist()) for start, end in itertools.pairwise(borders)]


def test_nothing_is_lost_between_text_and_tokens(prepared: Dataset, text_folder: Path) -> None:
    found = []
    for name in ("train", "valid"):
        split = prepared.split(name)
        found += documents(prepared, split.read(0, split.tokens))
    assert sorted(found) == sorted(path.read_text() for path in text_folder.iterdir())


def test_predictions_of_a_plain_batch() -> None:
    assert Batch(np.zeros((3, 9), np.int32)).predictions == 24
