"""The study's plan: which runs are needed, given what is known; no run is started here."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

SPEC = {
    "seeds": [0, 1, 2],
    "scales": {"a": {}, "b": {"projection.init_std": "fan_in"}},
    "methods": {"lost": {"set": {"projection.kind": "lost"}, "lrs": [1.0, 2.0, 4.0]}},
    "ablations": {"start": {"random": {"of": "lost", "set": {"projection.start": "random"}}}},
}


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import study

    yield study
    for name in ("study", "study_report"):
        sys.modules.pop(name, None)


def follow(study: ModuleType, loss: object) -> list[tuple]:
    """Do what is wanted until nothing is."""
    losses: dict[str, float] = {}
    done = []
    while run := next((run for run in study.wanted(SPEC, losses, {}) if run.name not in losses), None):
        losses[run.name] = loss(run)  # type: ignore[operator]
        done.append((run.scale, run.lr, run.seed, run.group, run.method))
        assert len(done) < 50
    return done


def test_the_best_is_inside_its_grid_and_then_repeated(study: ModuleType) -> None:
    """Best at 8 at scale a; scale b is worse, so one run there is enough."""
    done = follow(study, lambda run: abs(run.lr - 8) + (run.scale == "b"))
    search = [(scale, lr) for scale, lr, seed, group, _ in done if seed == 0 and group is None]
    assert search == [("a", 1), ("a", 2), ("a", 4), ("a", 8), ("a", 16), ("b", 8)]
    assert [entry for entry in done if entry[2] > 0] == [("a", 8, seed, None, "lost") for seed in (1, 2)]
    assert done[-1] == ("a", 8, 0, "start", "random")


def test_a_better_scale_is_searched_too(study: ModuleType) -> None:
    done = follow(study, lambda run: abs(run.lr - (2 if run.scale == "a" else 4)) - 5 * (run.scale == "b"))
    search = [(scale, lr) for scale, lr, seed, group, _ in done if seed == 0 and group is None]
    assert search[:4] == [("a", 1), ("a", 2), ("a", 4), ("b", 2)]
    assert {lr for scale, lr in search if scale == "b"} == {1, 2, 4, 8}
    assert {entry[:2] for entry in done if entry[2] > 0} == {("b", 4)}


def test_a_diverged_run_is_never_the_best(study: ModuleType) -> None:
    done = follow(study, lambda run: float("inf") if run.lr > 2 else -run.lr)
    assert {entry[:2] for entry in done if entry[2] > 0} == {("a", 2)}


def test_a_final_compares_at_equal_tokens_and_in_equal_time_seed_by_seed(study: ModuleType) -> None:
    """A step that takes twice as long gets half the steps; the first method has had its time already."""
    dense = {"set": {"projection.kind": "dense"}, "lr": 2.0}
    spec = {
        "seeds": [0, 1],
        "config": {"schedule": {"steps": 1000}},
        "final": {"lost": {"set": {}, "lr": 1.0}, "dense": dense, "cola": {**dense, "seeds": [0]}},
    }
    runs = list(study.wanted(spec, {}, {"lost": 1.0, "dense": 2.0, "cola": 0.5}))
    assert [(run.group, run.method, run.seed, dict(run.settings).get("schedule.steps")) for run in runs] == [
        ("final", "lost", 0, None), ("final", "dense", 0, None), ("final", "cola", 0, None),
        ("equal time", "dense", 0, 500), ("equal time", "cola", 0, 2000),
        ("final", "lost", 1, None), ("final", "dense", 1, None), ("equal time", "dense", 1, 500),
    ]  # fmt: skip
    assert not [run for run in study.wanted(spec, {}, {}) if run.group == "equal time"]  # nothing was measured yet
