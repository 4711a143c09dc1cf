"""Samples of a model in training: the same in every life of a run, which they leave as it is."""

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.generation.samples import write_samples
from lost.model.init import initial_values
from lost.tracking.metrics import MetricsFile, problems

Lost = Callable[..., Any]
PROMPTS = "train.sample_prompts=[the low rank, '']"


def rows(run: Path, key: str) -> list[dict]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if key in row]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_is_lost_in_part_writes_the_same_and_ends_as_without(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--backend", backend, "--out")
    settings = [word for each in ("train.sample_every=2", "train.sample_tokens=9", PROMPTS) for word in ("--set", each)]
    run = tmp_path / "run"
    assert lost(*command, tmp_path / "plain").code == 0
    done = lost(*command, run, *settings, "--set", "train.stop_after=15")
    assert done.code == 0, done.err
    before = rows(run, "texts")
    shutil.rmtree(run / "checkpoints" / "step-00000015")
    done = lost(*command, run, *settings)
    assert "from step 10" in done.out, done.err
    assert lost("verify", run).code == 0

    ends = [open_checkpoint(checkpoint_path(each / "checkpoints", 20)) for each in (tmp_path / "plain", run)]
    states = [{name: array.tobytes() for name, array in (*end.parameters(), *end.moments())} for end in ends]
    assert states[0] == states[1]
    losses = [[row["loss"] for row in rows(each, "loss")] for each in (tmp_path / "plain", run)]
    assert losses[0] == losses[1]

    found = rows(run, "texts")
    assert [row["step"] for row in found] == list(range(2, 21, 2))
    assert [row["texts"] for row in found[:7]] == [row["texts"] for row in before]
    assert len({row["texts"][0]["text"] for row in found[:7]}) > 1  # other random numbers, and another model
    assert all(row["seconds"] > 0 for row in found)
    for step in (10, 20):
        saved = open_checkpoint(checkpoint_path(run / "checkpoints", step))
        engine = create_engine(saved.config, backend, "cpu")
        engine.load(saved.parameters())
        texts = write_samples(engine, saved.config, prepared.tokenizer, step)
        assert found[step // 2 - 1]["texts"] == texts
        assert [each["prompt"] for each in texts] == ["the low rank", ""]
    assert f"step 20/20  sample 2 of 2\n  | {texts[1]['text'].splitlines()[0]}" in done.out


def test_a_run_that_is_told_to_stop_saves_at_once_and_may_go_on_with_other_samples(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "step.done:4=term")
    monkeypatch.setattr("lost.storage.failpoints._reached", 0)
    run = tmp_path / "run"
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", run, "--device", "cpu", "train.stop_after=6")
    assert lost(*command, "train.sample_every=2").code == 143
    assert (run / "latest").read_text() == "checkpoints/step-00000004\n"
    assert [row["step"] for row in rows(run, "texts")] == [2]
    # And in the midst of a sample.
    monkeypatch.setattr("lost.storage.failpoints._PLAN", "sample.piece:3=term")
    monkeypatch.setattr("lost.storage.failpoints._reached", 0)
    assert lost(*command, "train.sample_every=1").code == 143
    assert (run / "latest").read_text() == "checkpoints/step-00000005\n"
    assert [row["step"] for row in rows(run, "texts")] == [2]
    others = ("train.sample_every=3", "train.sample_tokens=3", "train.sample_temperature=0", PROMPTS)
    done = lost(*command, *others)
    assert done.code == 0, done.err
    assert [(row["step"], len(row["texts"])) for row in rows(run, "texts")] == [(2, 1), (6, 2)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_ends_where_the_model_or_its_window_does(
    prepared: Dataset, config: Callable[..., Config], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperature 0 it takes the likeliest; what generation holds is let go of."""
    tokenizer = prepared.tokenizer
    settings = config(model={"vocab_size": tokenizer.vocab_size}, train={"sample_temperature": 0, "sample_tokens": 5})
    engine = create_engine(settings, backend, "cpu")
    engine.load(initial_values(settings))
    (one,) = write_samples(engine, settings, tokenizer, 1)
    assert (one["prompt"], one["tokens"], one["ended"]) == ("", 5, "length")
    assert write_samples(engine, settings, tokenizer, 2) == [one]
    drawn = settings.replace("train", sample_temperature=1)
    first, second = (write_samples(engine, drawn, tokenizer, step) for step in (1, 2))
    assert first != second
    assert first == write_samples(engine, drawn, tokenizer, 1)

    long = settings.replace("train", sample_tokens=1024)
    assert write_samples(engine, long, tokenizer, 1)[0]["tokens"] == settings.data.seq_len - 1
    gc.collect()
    modules = ("lost.backends.torch.model", "mlx_lm.models.cache")
    assert not [each for each in gc.get_objects() if type(each).__module__ in modules and "Cache" in str(type(each))]
    monkeypatch.setattr(engine, "generate", lambda *arguments: iter([5, tokenizer.end_of_text, 6]))
    (ended,) = write_samples(engine, settings, tokenizer, 1)
    assert (ended["text"], ended["tokens"], ended["ended"]) == (tokenizer.decode([5]), 1, "end_of_text")


def test_without_mlx_lm_training_does_not_start(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm.generate", None)
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "mlx")
    for more in ((), ("--dry-run",)):
        answer = lost(*command, "train.sample_every=5", *more)
        assert answer.code == 2
        assert "generating with MLX takes mlx-lm" in answer.err
        assert not (tmp_path / "run").exists()


def test_prompts_that_leave_no_room(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Refused before anything is written; and only where there are to be samples."""
    words = " ".join(["rank"] * 16)
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu")
    for more in ((), ("--dry-run",)):
        answer = lost(*command, f"train.sample_prompts=['{words}']", "train.sample_every=5", *more)
        assert answer.code == 2
        assert "train.sample_prompts: 'rank rank" in answer.err
        assert "expected fewer than data.seq_len = 16" in answer.err
        assert not (tmp_path / "run").exists()
    assert lost(*command, f"train.sample_prompts=['{words}']", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (f"train.sample_prompts={['x'] * 17}", "train.sample_prompts"),
        (f"train.sample_prompts=[{'x' * 1001}]", "train.sample_prompts"),
        ("train.sample_prompts=the", "train.sample_prompts"),
        ("train.sample_tokens=1025", "train.sample_tokens"),
        ("train.sample_temperature=-1", "train.sample_temperature"),
    ],
)
def test_settings_out_of_bounds(lost: Lost, tiny_yaml: Path, prepared: Dataset, setting: str, words: str) -> None:
    answer = lost("train", tiny_yaml, "--data", prepared.path, setting, "--dry-run")
    assert answer.code == 2
    assert words in answer.err


class Wordy:
    """A tokenizer with the longest pieces."""

    end_of_text, vocab_size = 1, 19

    def encode(self, text: str) -> Any:
        return __import__("numpy").array([2])

    def stream(self, ids: Any, after: Any) -> Any:
        return ("\U0001f600" * 1500 for _ in ids)


def test_equal_prompts_have_texts_of_their_own(config: Callable[..., Config], prepared: Dataset) -> None:
    settings = config(train={"sample_prompts": ["the", "the", "rank"], "sample_tokens": 9, "sample_temperature": 2.0},
                      model={"vocab_size": prepared.tokenizer.vocab_size})  # fmt: skip
    engine = create_engine(settings, "torch", "cpu")
    engine.load(initial_values(settings))
    texts = write_samples(engine, settings, prepared.tokenizer, 1)
    assert [each["prompt"] for each in texts] == ["the", "the", "rank"]
    assert len({each["text"] for each in texts}) == 3


def test_the_longest_row_is_still_read(config: Callable[..., Config], tmp_path: Path) -> None:
    prompts = ["\U0001f600" * 998 + f"{n:02}" for n in range(16)]
    settings = config(train={"sample_prompts": prompts, "sample_temperature": 0})  # which doesn't end by chance
    engine = create_engine(settings, "torch", "cpu")
    engine.load(initial_values(settings))
    texts = write_samples(engine, settings, Wordy(), 1)  # type: ignore[arg-type]
    assert [len(each["text"]) for each in texts] == [4000] * 16
    MetricsFile(tmp_path).row({"step": 1, "texts": texts, "seconds": 1.0})
    assert not list(problems(tmp_path / "metrics.jsonl", settings))
