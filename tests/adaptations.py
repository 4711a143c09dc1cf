"""What tests read of runs that adapt a model: their checkpoints, arrays and logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost.checkpoint import Checkpoint, open_checkpoint
from lost.engine import create_engine
from lost.model.load import load_config

TOKENS = np.random.default_rng(0).integers(0, 320, (2, 12)).astype(np.int32)
RANK = 4


def at(run: Path, step: int) -> Checkpoint:
    return open_checkpoint(run / "checkpoints" / f"step-{step:08d}")


def arrays(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: each.tobytes() for name, each in (*checkpoint.parameters(), *checkpoint.moments())}


def scores(checkpoint: Checkpoint, backend: str, logits: Callable) -> np.ndarray:
    engine = create_engine(checkpoint.config, backend, "cpu")
    engine.load(checkpoint.parameters())
    return logits(engine, TOKENS)


def run_data(run: Path) -> str:
    return str(load_config(run / "config.yaml").data.path)


def scores_of_peft(base: Path, adapter: Path) -> np.ndarray:
    """Logits of an exported base model on which PEFT has put an adapter; without PEFT the test is skipped here."""
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(plain, adapter).eval()
        return model(torch.from_numpy(TOKENS.astype(np.int64))).logits.numpy()
