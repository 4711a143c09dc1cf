"""Exports with convolutions in transformers' hands: caches and training as their users have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import SIZES, checkpoint_of
from transformers import AutoModelForCausalLM, DynamicCache

from lost.config import Config
from lost.data.dataset import Dataset
from lost.interop.to_hf.folder import export

TOKENS = torch.tensor([[1, 40, 41, 300, 7, 99, 260, 5, 12, 311, 64, 3]])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> Any:
    """An export as transformers opens it, of which nothing else is checked."""
    monkeypatch.setattr("lost.interop.to_hf.folder.READERS", {})
    settings = config(projection={"kind": "lost", "short_conv_width": 4}, model=SIZES)
    export(checkpoint_of(settings, tmp_path / "source", prepared), tmp_path / "out", "hf")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, trust_remote_code=True)


def test_a_cache_of_the_users_own(model: Any) -> None:
    """Made without a configuration, it gets its layers for keys and values before those of convolutions."""
    cache = DynamicCache()
    with torch.no_grad():
        whole = model(TOKENS, use_cache=False).logits
        steps = [model(token[:, None], past_key_values=cache).logits for token in TOKENS.unbind(1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)
    assert cache.get_seq_length() == TOKENS.shape[1]


def test_gradients_are_those_without_recomputation(model: Any) -> None:
    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        return [each.grad.clone() for each in model.parameters()]

    model.train()
    expected = gradients()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(), expected)
