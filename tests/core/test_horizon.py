"""How long a run is, said otherwise than in steps."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lost.config import Config
from lost.data.dataset import Dataset
from lost.data.mixture import training_stream
from lost.errors import ConfigError
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.planning.horizon import with_steps

A_STEP = 4 * 16  # tokens


@pytest.fixture
def said(tiny_yaml: Path) -> Callable[..., Config]:
    sets = ("model.vocab_size=64", "train.batch_size=4", "train.micro_batch_size=auto", "data.seq_len=16")
    return lambda *more: load_config(str(tiny_yaml), [*sets, "schedule.warmup_steps=0", *more])


def test_tokens_are_whole_steps_and_at_least_so_many(said: Callable[..., Config]) -> None:
    for tokens, steps in ((1, 1), (A_STEP, 1), (A_STEP + 1, 2), (100 * A_STEP, 100)):
        assert with_steps(said(f"schedule.tokens={tokens}")).schedule.steps == steps


def test_tokens_a_parameter(said: Callable[..., Config]) -> None:
    config = said("schedule.tokens_per_parameter=20")
    assert with_steps(config).schedule.steps == math.ceil(20 * budget(config).parameters / A_STEP)


def test_epochs_are_passes_over_the_text(said: Callable[..., Config], prepared: Dataset) -> None:
    config = said("schedule.epochs=1.5")
    steps = with_steps(config, prepared).schedule.total_steps
    (epochs,) = training_stream(prepared, 16, config.train.seed).epochs(steps * 4)
    (before,) = training_stream(prepared, 16, config.train.seed).epochs((steps - 1) * 4)
    assert before < 1.5 <= epochs


def test_whole_epochs_are_whole_steps(said: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """1 / (1 / 49) is above 49: rounded up, the run would read its first window twice."""
    monkeypatch.setattr("lost.planning.horizon.training_stream", lambda *given: SimpleNamespace(
        epochs=lambda samples: [samples / 196]))  # fmt: skip
    config = said("schedule.epochs=1")
    assert with_steps(config, SimpleNamespace()).schedule.steps == 49  # type: ignore[arg-type]


def test_shares_become_counts_and_what_was_said_is_gone(said: Callable[..., Config]) -> None:
    sets = ("schedule.name=wsd", "schedule.warmup_ratio=0.1", "schedule.decay_ratio=0.25")
    schedule = with_steps(said(f"schedule.tokens={200 * A_STEP}", *sets)).schedule
    assert (schedule.steps, schedule.warmup_steps, schedule.decay_steps) == (200, 20, 50)
    assert (schedule.tokens, schedule.warmup_ratio, schedule.decay_ratio) == (None, None, None)
    assert with_steps(said("schedule.steps=200", *sets)).schedule == schedule  # so a run keeps what it is


def test_the_last_of_several_ways_counts(said: Callable[..., Config]) -> None:
    assert said("schedule.tokens=640", "schedule.steps=7").schedule.tokens is None
    assert said("schedule.steps=7", "schedule.tokens=640").schedule.steps is None
    assert said("schedule.warmup_ratio=0.1").schedule.warmup_steps == 0


def test_what_follows_another_run_may_be_as_long_as_is_said(said: Callable[..., Config]) -> None:
    follows = said("schedule.steps=7", "schedule.warmup_steps=2")
    schedule = load_config(None, ["schedule.tokens=640", "schedule.warmup_ratio=0.5"], follows).schedule
    assert (schedule.steps, schedule.tokens, schedule.warmup_steps, schedule.warmup_ratio) == (None, 640, 0, 0.5)
    assert load_config(None, ["schedule.min_lr_ratio=0.2"], follows).schedule.steps == 7


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("schedule.steps=null",), "nothing says how long the run is; expected one of steps, tokens, epochs"),
        (("schedule.tokens=-5",), "greater than or equal to 1"),
        (("schedule.epochs=0",), "greater than 0"),
        (("schedule.warmup_ratio=0.7", "schedule.name=wsd", "schedule.decay_ratio=0.5"), "more than the run"),
        (("schedule.decay_ratio=0.5", "schedule.name=cosine"), "decay_ratio belongs to the schedule wsd"),
    ],
)
def test_what_makes_no_sense_is_refused(said: Callable[..., Config], sets: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        said(*sets)


def test_both_in_one_file_are_refused(tiny_yaml: Path) -> None:
    tiny_yaml.write_text(tiny_yaml.read_text().replace("  steps: 20", "  steps: 20\n  tokens: 640"))
    with pytest.raises(ConfigError, match=r"steps = 20 and tokens = 640: expected one of them"):
        load_config(str(tiny_yaml))


@pytest.mark.parametrize("phase", ["warmup", "decay"])
def test_a_share_of_nothing_is_said_too(tiny_yaml: Path, phase: str) -> None:
    """It would silently take the steps' place."""
    both = f"  steps: 20\n  name: wsd\n  {phase}_steps: 10\n  {phase}_ratio: 0"
    tiny_yaml.write_text(tiny_yaml.read_text().replace("  steps: 20\n  warmup_steps: 2", both))
    with pytest.raises(ConfigError, match=rf"{phase}_steps = 10 and {phase}_ratio = 0.0: expected one of them"):
        load_config(str(tiny_yaml))


def test_what_depends_on_what_is_not_known(said: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"schedule.epochs = 2.0: how many steps that are depends on"):
        with_steps(said("schedule.epochs=2"))
    with pytest.raises(ConfigError, match="comes to 10 steps, and warmup_steps = 20 are more"):
        with_steps(said(f"schedule.tokens={10 * A_STEP}", "schedule.warmup_steps=20"))
