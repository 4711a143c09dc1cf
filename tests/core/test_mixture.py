"""Mixtures: exact proportions, an order that is a pure function of seed and position, every window once an epoch."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lost.config import Config, DataConfig
from lost.data.dataset import Dataset
from lost.data.loader import TrainingStream
from lost.data.mixture import MixedStream, Mixture, open_dataset, training_stream
from lost.engine import create_engine
from lost.errors import DataError
from lost.evaluation.perplexity import evaluate_split
from lost.model.init import initial_values
from lost.prepare.examples import prepare_examples
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.tokenizer import train_tokenizer

Lost = Callable[..., Any]
LETTERS = "abc"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sets of one tokenizer, each of one letter, the third the largest."""
    folder = tmp_path_factory.mktemp("sets")
    tokenizer = train_tokenizer(["a1 b2 c3 the rank of the layer"] * 99, 280)
    for letter, documents in zip(LETTERS, (40, 60, 200), strict=True):
        lines = [json.dumps({"text": f"{letter} {number} " * 12}) for number in range(documents)]
        (folder / f"{letter}.jsonl").write_text("\n".join(lines))
        prepare(Sources([folder / f"{letter}.jsonl"]), folder / letter, tokenizer, 0.1)
    return [folder / letter for letter in LETTERS]


def weighted(sets: list[Path], *weights: float) -> Mixture:
    return Mixture({str(path): weight for path, weight in zip(sets, weights, strict=False)})


def letter_of(mixture: Mixture, tokens: np.ndarray) -> str:
    found = Counter(mixture.tokenizer.decode(tokens.tolist()))
    return max(LETTERS, key=lambda letter: found[letter])


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 1, 1), (0.0001, 0.9999), (5, 3, 2), (0.123, 0.4, 1.7)])
def test_every_block_has_its_share(sets: list[Path], weights: tuple[float, ...]) -> None:
    mixture = weighted(sets, *weights)
    stream = training_stream(mixture, 8, 0)
    assert isinstance(stream, MixedStream)
    block = sum(mixture.slots)
    assert 100 <= block <= 10_000
    wanted = {Path(name): weight / sum(weights) for name, weight in mixture.weights.items()}
    for share, each in zip(mixture.shares(), mixture.sets, strict=True):
        assert abs(share - wanted[each.path]) <= 0.0001
    places = [stream.draw(position) for position in range(2 * block)]
    for source, slots in enumerate(mixture.slots):
        assert sum(place[0] == source for place in places[:block]) == slots
        assert [number for which, number in places if which == source] == list(range(2 * slots))
    first, second = ([source for source, _ in places[start : start + block]] for start in (0, block))
    assert first != sorted(first)
    assert first != second


def test_samples_come_from_the_sets_in_proportion(sets: list[Path]) -> None:
    mixture = weighted(sets, 0.5, 0.2, 0.3)
    rows = training_stream(mixture, 8, 3).batch(0, 1000).tokens
    assert Counter(letter_of(mixture, row) for row in rows) == {"a": 500, "b": 200, "c": 300}


def test_a_part_of_the_validation_text_is_of_each_set(sets: list[Path], config: Callable[..., Config]) -> None:
    """In proportion to how much it has; not the beginning of the first alone."""
    mixture = weighted(sets, 0.98, 0.01, 0.01)
    split = mixture.split("valid")
    run = config(model={"vocab_size": mixture.tokenizer.vocab_size})
    engine = create_engine(run, "torch", "cpu")
    engine.load(initial_values(run))
    limit = split.predictions // 4
    found = evaluate_split(engine, split, 16, 4, limit=limit)
    shares = [round(limit * part.predictions / split.predictions) for part in split.parts]
    apart = [
        evaluate_split(engine, each.split("valid"), 16, 4, limit=share)
        for each, share in zip(mixture.sets, shares, strict=True)
    ]
    assert (found.tokens, found.bytes) == (sum(each.tokens for each in apart), None)
    assert min(shares) > 8
    assert found.nll == pytest.approx(sum(each.nll for each in apart))
    assert evaluate_split(engine, split, 16, 4, limit=10**9).tokens == split.predictions


def test_each_set_is_gone_through_in_its_own_epochs(sets: list[Path]) -> None:
    mixture = weighted(sets, 0.75, 0.25)
    stream = training_stream(mixture, 8, 1)
    assert isinstance(stream, MixedStream)
    for source, each in enumerate(mixture.sets):
        windows = each.split("train").windows(8)
        rows = [
            tuple(stream.batch(position, 1).tokens[0])
            for position in range(3 * windows * 4)
            if stream.draw(position)[0] == source
        ]
        split = each.split("train")
        every = Counter(tuple(split.read(number * 8, 9)) for number in range(windows))
        for epoch in range(len(rows) // windows):
            assert Counter(rows[epoch * windows : (epoch + 1) * windows]) == every
        assert rows[:windows] != rows[windows : 2 * windows]


def test_order_depends_on_seed_and_position_alone(sets: list[Path]) -> None:
    """Not on batches, on what was read before, on how folders are called or which is named first."""
    whole = training_stream(weighted(sets, 0.7, 0.2, 0.1), 8, 5).batch(0, 300).tokens
    backwards = Mixture({str(path): weight for path, weight in zip(sets[::-1], (1, 2, 7), strict=True)})
    stream = training_stream(backwards, 8, 5)
    for first, count in ((290, 10), (0, 1), (95, 20), (7, 64)):
        np.testing.assert_array_equal(stream.batch(first, count).tokens, whole[first : first + count])
    assert backwards.fingerprint == weighted(sets, 0.7, 0.2, 0.1).fingerprint
    assert weighted(sets, 0.6, 0.3, 0.1).fingerprint != backwards.fingerprint
    assert (training_stream(backwards, 8, 6).batch(0, 300).tokens != whole).any()


def test_one_set_alone_keeps_its_order(sets: list[Path]) -> None:
    """What a run saw before there were mixtures."""
    stream = training_stream(Dataset(sets[0]), 8, 5)
    expected = TrainingStream(Dataset(sets[0]).split("train"), 8, 5).batch(0, 9).tokens
    np.testing.assert_array_equal(stream.batch(0, 9).tokens, expected)


def test_validation_is_the_text_of_all_sets(sets: list[Path]) -> None:
    mixture = weighted(sets, 0.7, 0.2, 0.1)
    split = mixture.split("valid")
    parts = [each.split("valid") for each in mixture.sets]
    expected = np.concatenate([part.read(0, part.tokens)[bool(number) :] for number, part in enumerate(parts)])
    np.testing.assert_array_equal(split.read(0, split.tokens), expected)
    np.testing.assert_array_equal(split.read(parts[0].tokens - 3, 9), expected[parts[0].tokens - 3 :][:9])
    assert (split.bytes, split.documents) == (sum(part.bytes for part in parts), sum(part.documents for part in parts))
    assert split.documents == expected.tolist().count(mixture.tokenizer.end_of_text) - 1


def test_predictions_of_text_are_counted_without_a_draw(sets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step counts its own, of the whole batch and in Python."""
    mixed, alone = (training_stream(each, 16, 0) for each in (weighted(sets[:2], 1, 3), Dataset(sets[0])))
    counts = mixed.batch(5, 7).predictions, alone.batch(5, 7).predictions
    monkeypatch.setattr(MixedStream, "draw", None)
    monkeypatch.setattr(TrainingStream, "_windows", None)
    assert (mixed.predictions(5, 7), alone.predictions(5, 7)) == counts


def test_examples_mix_with_examples(sets: list[Path], tmp_path: Path) -> None:
    tokenizer = Dataset(sets[0]).tokenizer
    for name in "pq":
        lines = [json.dumps({"prompt": f"{name} {n}", "completion": f" c{n}" * 3}) for n in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        prepare_examples([tmp_path / f"{name}.jsonl"], tmp_path / name, tokenizer, 0.2)
    mixture = weighted([tmp_path / "p", tmp_path / "q"], 1, 3)
    stream = training_stream(mixture, 24, 0)
    batch = stream.batch(0, 100)
    assert stream.has_mask
    assert batch.mask is not None
    assert stream.predictions(0, 100) == batch.predictions < batch.tokens[:, 1:].size
    valid = mixture.split("valid")
    assert valid.loss_mask is not None
    assert len(valid.loss_mask.mask) == valid.tokens
    assert int((valid.loss_mask.mask & 1).sum()) == valid.loss_mask.tokens
    with pytest.raises(DataError, match="one holds examples and the other text"):
        Mixture({str(tmp_path / "p"): 1, str(sets[0]): 1})


@pytest.mark.parametrize("scale", [1.0, 2.0**1022, 2.0**-1000])
def test_weights_may_be_of_any_size(sets: list[Path], scale: float) -> None:
    """Their sum needn't be a number of the machine's."""
    assert weighted(sets, 3 * scale, scale / 2, scale / 2).slots == weighted(sets, 6, 1, 1).slots
    with pytest.raises(DataError, match=r"has the weight .*, 1e-05 of all; expected"):
        weighted(sets, 3.9999 * scale, 4e-5 * scale)


def test_refused(sets: list[Path], prepared: Dataset, tmp_path: Path) -> None:
    shutil.copytree(sets[0], tmp_path / "copy")
    cases = [
        ({sets[0]: 1, prepared.path: 1}, "different tokenizers"),
        ({sets[0]: 1, tmp_path / "copy": 1}, "hold the same data"),
        ({sets[0]: 1, tmp_path / "nowhere": 1}, "nowhere doesn't exist; expected a folder written"),
        ({sets[0]: 1, sets[1]: 0.00001}, "expected at least one 10,000th of all"),
    ]
    for weights, named in cases:
        with pytest.raises(DataError, match=named):
            Mixture({str(path): weight for path, weight in weights.items()})
    with pytest.raises(DataError, match=r"with weights in data\.mixture"):
        open_dataset(DataConfig())


def mixed(sets: list[Path], *weights: float) -> tuple[str, ...]:
    named = {str(path): weight for path, weight in zip(sets, weights, strict=False)}
    return ("--set", f"data.mixture={json.dumps(named)}")


def test_run_on_a_mixture(lost: Lost, sets: list[Path], tiny_yaml: Path, tmp_path: Path) -> None:
    """Trained, stopped, gone on with from moved folders to the same losses; other weights are refused."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    command = ("train", tiny_yaml, "--set", "schedule.steps=6", "--set", "train.log_every=1")
    assert lost(*command, *mixed(sets, 0.7, 0.3), "--out", straight).code == 0
    answer = lost(*command, *mixed(sets, 0.7, 0.3), "--out", run, "--set", "train.stop_after=3")
    assert answer.code == 0, answer.err
    moved = [shutil.copytree(path, tmp_path / path.name) for path in sets]
    answer = lost(*command, *mixed(sets, 0.6, 0.4), "--out", run)
    assert answer.code == 2
    assert "is not the data that" in answer.err
    answer = lost(*command, *mixed(moved, 7, 3), "--out", run, "--json")
    assert answer.code == 0, answer.err
    losses = [
        [row["loss"] for row in map(json.loads, (each / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
        for each in (straight, run)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert lost("verify", run).code == 0
    whole = json.loads(lost("eval", run, "--json").out)
    parts = [json.loads(lost("eval", run, "--data", path, "--json").out) for path in sets[:2]]
    assert whole["bytes"] == sum(part["bytes"] for part in parts)
    assert whole["tokens"] == sum(part["tokens"] for part in parts)
    shutil.rmtree(moved[0])
    assert "is not on this machine" in lost("verify", run).out


def test_dry_run_says_how_often_each_set_is_gone_through(
    lost: Lost, sets: list[Path], tiny_yaml: Path, tmp_path: Path
) -> None:
    command = ("train", tiny_yaml, *mixed(sets, 0.75, 0.25), "--out", tmp_path / "run", "--dry-run")
    found = json.loads(lost(*command, "--json").out)["data"]
    by_name = {Path(each["path"]).name: each for each in found["mixture"]}
    windows = Dataset(sets[0]).split("train").windows(16)
    assert by_name["a"]["share"] == 0.75
    assert by_name["a"]["epochs"] == pytest.approx(20 * 4 * 0.75 / windows)
    assert found["epochs"] == max(each["epochs"] for each in found["mixture"])
    assert found["tokens"] == sum(Dataset(path).split("train").tokens for path in sets[:2]) - 1
    assert "(75.00%)" in lost(*command).out


def test_refused_configurations(lost: Lost, sets: list[Path], tiny_yaml: Path, tmp_path: Path) -> None:
    cases = [
        (("--set", f"data.path={sets[0]}", *mixed(sets, 1, 1)), "are both set"),
        (("--set", "data.mixture={}"), "names no set"),
        (mixed(sets, 1, 0), "greater than 0"),
        (mixed(sets, 1, -1), "greater than 0"),
    ]
    for arguments, named in cases:
        answer = lost("train", tiny_yaml, *arguments, "--out", tmp_path / "run")
        assert answer.code == 2, arguments
        assert named in answer.err, answer.err
    assert not (tmp_path / "run").exists()
    answer = lost("train", tiny_yaml, *mixed(sets, 1, 1), "--data", sets[2], "--dry-run", "--out", tmp_path / "run")
    assert str(sets[2]) in answer.out  # what the command line names comes first
