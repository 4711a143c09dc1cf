"""The promises that a script breaks one by one: what it takes out is there, and so are the tests."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_is_taken_out_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a change of the code has left a promise without its check, which takes too long for the suite."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import promises

    sys.modules.pop("promises")

    def text(file: str) -> str:
        return (ROOT / file).read_text(encoding="utf-8")

    wrong = [(file, removed) for _, file, removed, *_ in promises.CASES if text(file).count(removed) != 1]
    assert not wrong
    named = [test.partition("::") for *_, test in promises.CASES]
    assert not [(file, test) for file, _, test in named if test.partition("[")[0] not in text(file)]
