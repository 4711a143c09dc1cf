"""A sweep's runs as processes: how many at a time, what ends them, and one that another process trains."""

import json
import sys
from pathlib import Path

import pytest

from lost.errors import LostError
from lost.storage.lock import locked
from lost.sweep.runner import Runner, Wanted, work_off

TRAINING = """
import json, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(out.with_suffix(".saved").write_text("")))
out.with_suffix(".began").write_text("")
while "--set" in sys.argv:
    time.sleep(0.01)
print(json.dumps(json.loads(out.name)))
sys.exit(2 if "error" in out.name else 0)
"""
"""Answers with its own name; what sets something trains until it is told to save itself."""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr("lost.sweep.runner._WAIT", 0.01)
    return Runner([sys.executable, "-c", TRAINING], tmp_path, 1)


def test_whatever_ends_a_sweep_its_runs_save_themselves(runner: Runner, tmp_path: Path) -> None:
    due = [Wanted("first", ["a=1"]), Wanted("second", ["a=1"])]
    complete = work_off(
        runner, 2, lambda: due.pop(0) if due else None, lambda *_: None, lambda: len([*tmp_path.glob("*.began")]) == 2
    )
    assert not complete
    assert {each.name for each in tmp_path.glob("*.saved")} == {"first.saved", "second.saved"}


def test_as_many_runs_at_a_time_as_are_asked_for(runner: Runner) -> None:
    due, at_once = [Wanted(f'{{"run": {number}}}', []) for number in range(4)], []
    done = {}

    def look() -> bool:
        at_once.append(len(runner.running))
        return False

    assert work_off(runner, 2, lambda: due.pop(0) if due else None, done.__setitem__, look)
    assert {answer["run"] for answer in done.values()} == {0, 1, 2, 3}
    assert max(at_once) == 2


def test_a_run_that_diverged_has_an_infinite_loss_and_another_failure_ends_the_sweep(runner: Runner) -> None:
    done: dict[str, dict] = {}
    kinds = "DivergedError", "DataError"
    diverged, failed = (Wanted(json.dumps({"error": {"kind": kind, "message": "why"}}), []) for kind in kinds)
    due = [diverged]
    assert work_off(runner, 1, lambda: due.pop() if due else None, done.__setitem__)
    assert done[diverged.name]["validation_loss"] == float("inf")
    due = [failed]
    with pytest.raises(LostError, match="why") as error:
        work_off(runner, 1, lambda: due.pop() if due else None, done.__setitem__)
    assert error.value.exit_code == 2


def test_a_run_that_another_process_trains_is_waited_for(runner: Runner, tmp_path: Path) -> None:
    """As one that a killed sweep has left."""
    due, looks = [Wanted('{"run": 1}', [])], []
    done: dict[str, dict] = {}
    lock = locked(tmp_path / due[0].name, print)
    lock.__enter__()

    def look() -> bool:
        looks.append([process for _, process in runner.running.values()])
        if len(looks) == 5:
            lock.__exit__(None, None, None)
        return False

    assert work_off(runner, 1, lambda: due.pop() if due else None, done.__setitem__, look)
    assert looks[1:5] == [[None]] * 4  # the first look is before anything is due
    assert list(done.values()) == [{"run": 1}]
