"""The progress that `lost prepare` and `lost train` show."""

from typing import Any

import pytest

from lost.cli.render.progress import EvaluationScreen, PreparationScreen, TrainingScreen


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


def test_a_finished_phase_shows_all_that_was_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most calls come too soon after one another to be drawn, and so does the last."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    clock = iter([0.0, 0.01, 0.02, 1.0, 1.0, 2.0])
    monkeypatch.setattr("lost.cli.render.progress.time.monotonic", lambda: next(clock))
    screen = PreparationScreen(on_stderr=False)
    with screen.live():
        screen("reading", 1000, 0, 1)
        screen("reading", 2000, 0, 2)
        screen("reading", 4_001_000, 0, 159)
        screen("training the tokenizer", 0, 0)
    shown = capsys.readouterr().out
    assert "159 documents" in shown
    assert "0.0 MB/s" not in shown  # a phase that counts nothing


def test_the_bars_of_a_preparation_fit_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    screen = PreparationScreen(on_stderr=False)
    with screen.live():
        screen("reading", 4_000_000, 0, 210)
        screen("training the tokenizer", 0, 0)
        screen("encoding", 4_000_000, 4_000_000, 210, 4_210_000)
    shown = capsys.readouterr().out
    assert f"encoding               {'━' * 12} 0:00:00 210 documents" in shown
    assert "…" not in shown


ROW = {
    "step": 20, "loss": 5.25, "loss_mean": 5.5, "lr": 1e-3, "grad_norm": 1.0, "tokens": 2000,
    "tokens_per_second": 100.0, "memory_bytes": 2**20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([], "starting"),
        ([("phase", "reading the checkpoint"), ("begin", 20)], "step 20/40  reading the checkpoint"),
        ([("phase", "training"), ("advance", 7)], "step 7/40"),
        (
            [("advance", 19), ("phase", "training"), ("step", ROW), ("advance", 23)],
            "step 23/40  loss 5.5000  0:00:17 left  100 tokens/s  last loss 5.2500  lr 1.00e-03  grad 1.00",
        ),
        ([("advance", 20), ("step", ROW), ("phase", "evaluating")], "step 20/40  evaluating  loss 5.5000"),
        ([("phase", "saving"), ("phase", "training"), ("advance", 30)], "step 30/40"),
    ],
)
def test_a_bar_that_moves_with_every_step(
    events: list[tuple[str, Any]], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a terminal; what is captured is its last frame."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    screen = TrainingScreen(40, on_stderr=False, quiet=False)
    for event, what in events:
        getattr(screen, event)(what)
    with screen.live():
        pass
    assert f" {shown}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (100, "step 20/40  loss 5.5000  0:00:20 left  100 tokens/s  last loss 5.2500"),
        (60, "step 20/40  loss 5.5000  0:00:20 left"),
        (40, "step 20/40  loss 5.5000"),
    ],
)
def test_beside_the_bar_is_what_fits_whole(
    columns: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar stays; of the numbers those that matter least go."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = TrainingScreen(40, on_stderr=False, quiet=False)
    screen.phase("training")
    screen.step(ROW)
    with screen.live():
        pass
    frame = capsys.readouterr().out.split("\x1b[2K")[-2].splitlines()[0]
    assert frame.startswith("━")
    assert frame.rstrip().endswith(f" {shown}")
    assert len(frame) <= columns


def test_the_time_left_is_told_before_the_first_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    clock = iter([0.0, 100.0, 160.0])
    monkeypatch.setattr("lost.cli.render.progress.time.monotonic", lambda: next(clock, 160.0))
    screen = TrainingScreen(40, on_stderr=False, quiet=False)
    screen.begin(10)
    screen.phase("training")
    screen.advance(13)
    with screen.live():
        pass
    assert " step 13/40  0:09:00 left" in capsys.readouterr().out


def test_the_bar_grows_with_every_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")

    def length(step: int) -> int:
        screen = TrainingScreen(24, on_stderr=False, quiet=False)
        screen.advance(step)
        with screen.live():
            pass
        return capsys.readouterr().out.count("━")

    assert length(6) < length(12) < length(18)


def test_a_line_in_a_pipe_has_both_losses(capsys: pytest.CaptureFixture[str]) -> None:
    screen = TrainingScreen(40, on_stderr=False, quiet=False)
    with screen.live():
        screen.advance(19)
        screen.phase("evaluating")
        screen.step(ROW)
        screen.step({**ROW, "loss_mean": ROW["loss"]})
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "step 20/40  loss 5.5000  0:00:20 left  100 tokens/s  last loss 5.2500  lr 1.00e-03  grad 1.00  1.0 MiB"
    )
    assert second.startswith("step 20/40  loss 5.2500  0:00:20 left  100 tokens/s  lr")
    screen.step({**ROW, "mfu": 0.4567})
    assert "100 tokens/s  MFU 45.7%  last loss" in capsys.readouterr().out


SAMPLES = {"step": 20, "texts": [
    {"prompt": "The cat", "text": " sat\n\nstep 21/40  loss 0.0000\r\x1b[2J\u202e"},
    {"prompt": "", "text": "word " * 12},
]}  # fmt: skip


def test_no_line_of_a_sample_passes_for_one_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingScreen(40, on_stderr=False, quiet=False).samples(SAMPLES)
    assert capsys.readouterr().out.splitlines() == [
        "step 20/40  sample 1 of 2",
        "  | The cat sat",
        "  | ",
        r"  | step 21/40  loss 0.0000\r\x1b[2J\u202e",
        "step 20/40  sample 2 of 2",
        "  | " + "word " * 12,
    ]


def test_a_sample_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of it stands behind the bar; the prompt is bold."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "30")
    TrainingScreen(40, on_stderr=False, quiet=False).samples(SAMPLES)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  | \x1b[1mThe cat\x1b[0m sat"
    bare = [line for line in lines if not line.startswith("  | ")]
    assert bare == ["step 20/40  sample 1 of 2", "step 20/40  sample 2 of 2"]
    assert [line.rstrip() for line in lines[-3:]] == [
        "  | word word word word word",
        "  | word word word word word",
        "  | word word",
    ]


def test_an_evaluation_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal; a pipe gets the answer alone."""

    def shown() -> str:
        screen = EvaluationScreen()
        with screen.live():
            before_a_batch = screen.counting("evaluating", tokens=64, total=100)
            before_a_batch()
            before_a_batch()
        return capsys.readouterr().err

    assert shown() == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert " 64/100 " in shown()
