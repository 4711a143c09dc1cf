"""Commands that end before they are done: Ctrl-C is told of, as JSON too, and no library ends one in silence."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.backends.torch.engine import TorchEngine
from lost.data.dataset import Dataset

Lost = Callable[..., Any]


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*arguments: object, **named: object) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (("eval", "x"), "lost.interop.source.open_source"),
        (("generate", "x"), "lost.interop.source.open_source"),
        (("verify", "x"), "lost.training.verify.verify"),
        (("plan", "quickstart"), "lost.model.load.load_config"),
        (("report", "x"), "lost.report.story.read_stories"),
    ],
)
def test_ctrl_c_is_told_of(lost: Lost, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], place: str) -> None:
    monkeypatch.setattr(place, raising(KeyboardInterrupt()))
    told = lost(*command)
    assert (told.code, told.out) == (130, "")
    assert told.err.startswith("lost: interrupted; ")
    as_json = lost(*command, "--json")
    assert (as_json.code, as_json.err) == (130, told.err)
    message = told.err.removeprefix("lost: ").rstrip()
    error = {"kind": "InterruptedAtOnceError", "message": message, "exit_code": 130}
    assert json.loads(as_json.out) == {"error": error}


@pytest.mark.parametrize("error", [EOFError("it ended early"), OSError(errno.EPIPE, "nobody reads it")])
def test_an_error_that_typer_would_take_for_an_end_is_told_of(
    lost: Lost, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It stands for Ctrl-D, and for a reader of standard output that left; here a file or a worker caused it."""
    monkeypatch.setattr("lost.interop.source.open_source", raising(error))
    told = lost("inspect", "x", "--json")
    assert told.code == 1
    assert json.loads(told.out)["error"]["kind"] == type(error).__name__
    assert str(error) in told.err


def test_soft_targets_say_that_they_go_on(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = ("--backend", "torch", "--device", "cpu")
    done = lost(
        "train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=2", *cpu
    )
    assert done.code == 0, done.err
    monkeypatch.setattr(TorchEngine, "predict", raising(KeyboardInterrupt()))
    told = lost("teach", tmp_path / "run", "--data", prepared.path, "--out", tmp_path / "soft", "--top-k", 4, *cpu)
    assert (told.code, "lost: interrupted; run the same command again to resume" in told.err) == (130, True), told.err


def test_of_several_workers_one_answers(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever launcher started them."""
    monkeypatch.setattr("lost.cli.main.leave_with_launcher", lambda: None)  # it would watch the tests' own parent
    for variable in ("RANK", "MLX_RANK", "OMPI_COMM_WORLD_RANK"):
        for rank, answers in (("0", 1), ("1", 0)):
            with monkeypatch.context() as patch:
                patch.setenv(variable, rank)
                assert lost("inspect", "nowhere", "--json").out.count('"error"') == answers, variable
