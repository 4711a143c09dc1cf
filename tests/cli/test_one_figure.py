"""One validation figure: `lost eval` repeats what a training ends with, to the bit; both say over how many tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.data.dataset import Dataset


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(("tokens", "dtype"), [(None, "float32"), (100, "float32"), (100, "bfloat16")])
def test_training_and_eval_agree(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str, tokens: int | None, dtype: str
) -> None:
    run, every = tmp_path / "run", prepared.split("valid").tokens - 1
    on = ("--backend", backend, "--device", "cpu")
    settings = (
        f"train.eval_tokens={tokens or 'null'}",
        f"train.dtype={dtype}",
        f"data.also_evaluate.own={prepared.path}",
    )
    trained = lost("train", tiny_yaml, *settings, "--data", prepared.path, "--out", run, *on, "--json")
    assert trained.code == 0, trained.err
    ended = json.loads(trained.out)
    assert ended["validation_tokens"] == (tokens or every)
    assert f"validation loss {ended['validation_loss']:.4f}  " in trained.err
    assert f" over {tokens or every:,} tokens" in trained.err

    found = json.loads(lost("eval", run, *on, "--json").out)
    for value in (found, found["also_evaluated"]["own"]):
        assert value["loss"] == ended["validation_loss"]
        assert value["perplexity"] == ended["perplexity"]
        assert value["tokens"] == (tokens or every)
    shown = lost("eval", run, *on).out
    part = f"{tokens} of {every:,} tokens, as many as train.eval_tokens says; --whole: all"
    assert part in " ".join(shown.split()) if tokens else f": {every:,} tokens, " in shown


def test_all_of_the_text(lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """By --whole, or named: never less, and bits a byte are known."""
    command = ("train", tiny_yaml, "train.eval_tokens=100", "--data", prepared.path, "--out", tmp_path / "run")
    assert lost(*command, "--device", "cpu").code == 0
    asked = [("--whole",), ("--data", prepared.path)]
    whole, named = (json.loads(lost("eval", tmp_path / "run", *each, "--json").out) for each in asked)
    assert whole == named
    assert whole["tokens"] == prepared.split("valid").tokens - 1
    assert whole["bits_per_byte"]
    for other in (("--data", prepared.path), ("--text", tiny_yaml), ("--tasks", "x")):
        answer = lost("eval", tmp_path / "run", "--whole", *other)
        assert answer.code == 2
        assert "--whole" in answer.err
