"""PyTorch's compiler fails: what is said, and that the run goes on without it. Inductor itself takes too long here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo

from lost.data.dataset import Dataset

DAMAGED = {  # as seen of Inductor: code that was cut short, a compiler that stopped
    "ImportError: /cache/e2/ce2.main.so: cannot read file data": ImportError(
        "/cache/e2/ce2.main.so: cannot read file data"
    ),
    "RuntimeError: Failed to import /cache/ha/cha.py: SyntaxError: invalid syntax (cha.py, line 12)": RuntimeError(
        "Failed to import /cache/ha/cha.py\nSyntaxError: invalid syntax (cha.py, line 12)"
    ),
    "RuntimeError: C++ compile error": RuntimeError("C++ compile error\n\nCommand:\ng++ x.cpp" + " -O3" * 999),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_a_compiler_that_fails(
    reason: str,
    lost: Callable[..., Any],
    tiny_yaml: Path,
    prepared: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(graph: object, inputs: object) -> Any:
        raise DAMAGED[reason]

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")
    train = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run")
    train += ("--backend", "torch", "--device", "cpu", "--set", "train.stop_after=1")
    dynamo.reset()
    with torch.compiler.set_stance("default", force_backend=broken):
        answer = lost(*train, "--set", "train.compile=true")
    dynamo.reset()
    assert answer.code == 2
    said = " ".join(answer.err.split())
    assert f"PyTorch's compiler failed: {reason}; expected it to work" in said
    assert "earlier runs in /cache to be whole; remove that folder" in said
    assert len(said) < 1500
    assert lost(*train, "--set", "train.compile=false").code == 0
