"""The progress that `lost prepare` shows."""

import pytest

from lost.cli.render.progress import PreparationScreen


def test_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0, 50.0])
    monkeypatch.setattr("lost.cli.render.progress.time.monotonic", lambda: next(clock))
    screen = PreparationScreen(on_stderr=False)
    with screen.live():
        screen("encoding", 100_000_000, 400_000_000, 10, 1000)  # where an earlier one had come to
        screen("encoding", 110_000_000, 400_000_000, 11, 1500)
        screen("encoding", 193_000_000, 400_000_000, 1234, 5_600_000)
        screen("encoding", 200_000_000, 400_000_000, 1300, 5_700_000)
        screen("encoding", 400_000_000, 400_000_000, 2000, 9_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "encoding ...",
        "encoding: 48%  1,234 documents  5.60M tokens  3.0 MB/s",
        "encoding: 100%  2,000 documents  9.00M tokens  6.0 MB/s",
    ]
