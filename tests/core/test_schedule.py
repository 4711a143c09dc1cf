"""The learning rate of each step."""

import itertools

import pytest
from conftest import tiny_config
from pydantic import ValidationError

from lost.config import OptimizerConfig, ScheduleConfig
from lost.optim.rates.schedule import agree_until, learning_rate
from lost.optim.unread import unread


def rates(**schedule: object) -> list[float]:
    parsed = ScheduleConfig.model_validate({"steps": 100, "warmup_steps": 10, "min_lr_ratio": 0.1, **schedule})
    return [learning_rate(OptimizerConfig(lr=2.0), parsed, step) for step in range(1, 101)]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
def test_warm_up_reaches_the_peak(name: str) -> None:
    values = rates(name=name)
    assert values[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(values) == values[9] == 2.0


def test_ends_and_middles() -> None:
    assert rates(name="cosine")[-1] == pytest.approx(0.2)
    assert rates(name="cosine")[54] == pytest.approx(1.1)  # half way from step 10 to 100
    assert rates(name="linear")[-1] == pytest.approx(0.2)
    assert rates(name="linear")[54] == pytest.approx(1.1)
    assert set(rates(name="constant")[9:]) == {2.0}


def test_wsd_stays_then_falls() -> None:
    values = rates(name="wsd", decay_steps=40)
    assert set(values[9:60]) == {2.0}
    assert values[79] == pytest.approx(1.1)
    assert values[-1] == pytest.approx(0.2)
    assert set(rates(name="wsd")[9:80]) == {2.0}  # a fifth of the run by default


def test_falls_steadily() -> None:
    for name in ("cosine", "linear"):
        values = rates(name=name)[9:]
        assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_no_warm_up_and_warm_up_only() -> None:
    assert rates(warmup_steps=0, name="constant")[0] == 2.0
    assert rates(warmup_steps=100)[-1] == 2.0


def test_what_a_schedule_does_not_read_is_refused_or_told() -> None:
    """A decay's length is another schedule's; a lowest rate is what some never come to."""
    with pytest.raises(ValidationError, match="decay_ratio belongs to the schedule wsd, not to linear"):
        rates(name="linear", decay_ratio=0.1)
    lowest = {"min_lr_ratio": 0.2, "steps": 10}
    told = {
        name: list(unread(tiny_config(schedule={"name": name, **lowest}))) for name in ("cosine", "constant", "wsd")
    }
    assert told["constant"] == ["schedule.min_lr_ratio = 0.2 does nothing: constant doesn't read it; leave it out"]
    assert not told["cosine"]
    assert not told["wsd"]


@pytest.mark.parametrize("name", ["constant", "wsd"])
@pytest.mark.parametrize("other", ["constant", "wsd", "cosine", "linear"])
def test_schedules_agree_as_long_as_their_rates_do(name: str, other: str) -> None:
    """Of a longer one, one with another decay, and one with another warm-up; none has a step after its end."""
    optimizer, old = OptimizerConfig(lr=2.0), ScheduleConfig(name=name, steps=20, warmup_steps=3)
    for changed in ({"steps": 30}, {"steps": 12}, {"steps": 30, "warmup_steps": 5}):
        new = ScheduleConfig.model_validate({"name": other, "warmup_steps": 3, **changed})
        shorter, same = min(20, new.total_steps), True
        for step in range(1, shorter + 1):
            same &= learning_rate(optimizer, old, step) == learning_rate(optimizer, new, step)
            assert agree_until(old, new, step) == same, (changed, step)
        assert not agree_until(old, new, shorter + 1)
