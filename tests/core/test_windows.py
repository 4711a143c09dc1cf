"""Windows of examples: whole ones, each target counted once, whatever the lengths."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lost.data.dataset import TRAIN, Dataset, Split
from lost.data.evaluation import example_batches
from lost.data.loader import ExampleWindows, TrainingStream
from lost.data.loss_mask import EXAMPLE_START, IN_LOSS, LossMask
from lost.errors import DataError
from lost.prepare.examples import prepare_examples


def split_of(examples: list[tuple[int, int]]) -> Split:
    """A split whose token at place i is i; each example has so many tokens that are given, and that are learned."""
    marks = [0]
    for before, learned in examples:
        own = [0] * before + [IN_LOSS] * learned
        marks += [own[0] | EXAMPLE_START, *own[1:]]
    values, found = np.arange(len(marks), dtype=np.uint16), np.array(marks, np.uint8)
    targets = LossMask(int((found & IN_LOSS).sum()), 0, found)
    return Split(TRAIN, len(marks), 0, len(examples), 60_000, [values], [0], targets)


LENGTHS = some.lists(some.tuples(some.integers(0, 12), some.integers(1, 12)), min_size=4, max_size=40)


@settings(max_examples=60)
@given(LENGTHS, some.integers(2, 20))
def test_each_target_counts_once_and_examples_are_whole(examples: list[tuple[int, int]], seq_len: int) -> None:
    split = split_of(examples)
    if split.tokens <= seq_len:
        return
    assert split.loss_mask is not None
    stream, marks = TrainingStream(split, seq_len, 3), split.loss_mask.mask
    begins = np.flatnonzero(marks & EXAMPLE_START)
    lengths = dict(zip(begins.tolist(), [before + learned for before, learned in examples], strict=True))
    seen: Counter[int] = Counter()
    for number in range(stream.windows):
        batch = stream.batch(number, 1)
        assert batch.mask is not None
        np.testing.assert_array_equal(np.diff(batch.tokens[0]), 1)
        places = batch.tokens[0, 1:][batch.mask[0]].tolist()
        seen.update(places)
        assert places, "a window that teaches nothing"
        assert stream.predictions(number, 1) == batch.predictions == len(places)
        for place in places:
            begin = int(begins[begins <= place][-1])
            if lengths[begin] <= seq_len:  # then what is given, and the token before it, is in the window
                assert batch.tokens[0, 0] <= begin - 1
    assert seen == Counter(np.flatnonzero(marks & IN_LOSS).tolist())
    assert stream.predictions(0, stream.windows) == split.loss_mask.tokens
    evaluated = [batch.predictions for batch in example_batches(split, seq_len, 3)]
    assert sum(evaluated) == split.loss_mask.tokens


def test_windows_are_filled_greedily() -> None:
    split = split_of([(2, 1), (1, 2), (3, 3), (1, 1)])
    assert split.loss_mask is not None
    samples = ExampleWindows(split, split.loss_mask, 8)
    tokens, mask = samples.read(0)
    assert samples.count == 2
    assert tokens[1:][mask].tolist() == [3, 5, 6]  # the third, with two tokens there, waits for the next window
    tokens, mask = samples.read(1)
    assert tokens.tolist() == list(range(6, 15))
    assert tokens[1:][mask].tolist() == [10, 11, 12, 14]


def test_a_limit_ends_with_a_window() -> None:
    split = split_of([(4, 4)] * 10)
    for limit, wanted in ((1, 4), (4, 4), (5, 8), (1000, 40), (None, 40)):
        for batch_size in (1, 3):
            assert sum(each.predictions for each in example_batches(split, 8, batch_size, limit)) == wanted


def test_fewer_tokens_than_a_window() -> None:
    split = split_of([(2, 3)])
    assert sum(batch.predictions for batch in example_batches(split, 64, 4)) == 3
    with pytest.raises(DataError, match="holds only 6 tokens"):
        TrainingStream(split, 64, 0)


def test_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="the train split has no target"):
        TrainingStream(split_of([(5, 0)] * 4), 8, 0)


def test_marks_on_disk(prepared: Dataset, tmp_path: Path) -> None:
    files = [tmp_path / "train.jsonl", tmp_path / "valid.jsonl"]
    for file in files:
        file.write_text('{"prompt": "the rank", "completion": " of it"}\n{"text": "the weight"}\n' * 3)
    out = tmp_path / "out"
    splits = prepare_examples(files[:1], out, prepared.tokenizer, files[1:])
    dataset, before = Dataset(out), (out / "train.marks").read_bytes()
    split, targets = dataset.split(TRAIN), splits[TRAIN]["targets"]
    assert split.loss_mask is not None
    assert len(before) == split.tokens
    assert split.loss_mask.bytes == 3 * len(" of itthe weight")
    assert split.loss_mask.tokens == targets["tokens"] == int((split.loss_mask.mask & IN_LOSS).sum())
    assert list(dataset.problems()) == []
    (out / "train.marks").write_bytes(before[:-1] + b"\0")
    assert [fault for fault in dataset.problems() if "train.marks" in fault]
    (out / "train.marks").write_bytes(before[:-1])
    with pytest.raises(DataError, match=r"train.marks is \d+ bytes long"):
        dataset.split(TRAIN)
    (out / "train.marks").unlink()
    with pytest.raises(DataError, match=r"train.marks is missing"):
        dataset.split(TRAIN)


def test_examples_are_held_out_whole_and_equal_ones_together(prepared: Dataset, tmp_path: Path) -> None:
    lines = [f'{{"prompt": "the rank {number % 10}", "completion": " of it"}}' for number in range(40)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    splits = prepare_examples([tmp_path / "x.jsonl"], tmp_path / "out", prepared.tokenizer, 0.2)
    assert (splits["train"]["documents"], splits["valid"]["documents"]) == (32, 8)  # of ten, two, four times each
    (tmp_path / "one.jsonl").write_text(lines[0])
    with pytest.raises(DataError, match="1 different examples, none to hold out"):
        prepare_examples([tmp_path / "one.jsonl"], tmp_path / "two", prepared.tokenizer, 0.2)
    assert not (tmp_path / "two").exists()
