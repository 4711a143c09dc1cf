"""Exports with convolutions in transformers' hands: caches and training as their users have them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import SIZES, checkpoint_of
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

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


def test_texts_in_one_row_read_nothing_of_each_other(model: Any) -> None:
    """As a collator without padding has them: positions begin anew."""
    parts = TOKENS[:, :5], TOKENS[:, 5:]
    positions = torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    with torch.no_grad():
        found = model(TOKENS, position_ids=positions, use_cache=False).logits
        alone = [model(part, use_cache=False).logits for part in parts]
    torch.testing.assert_close(found, torch.cat(alone, 1), atol=1e-5, rtol=0)


def test_assisted_decoding_writes_the_same(model: Any) -> None:
    """By a draft model of the same kind, and by n-grams of the prompt; both take tokens back, here most of them."""
    draft = copy.deepcopy(model)
    with torch.no_grad():
        for each in draft.parameters():
            each.add_(torch.randn_like(each) * 0.02)
    prompt = TOKENS.repeat(1, 8)  # more than a cache of convolutions holds
    options = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": 20,
        "do_sample": False,
        "eos_token_id": None,
    }
    expected = model.generate(prompt, **options)
    assert len(set(expected[0, prompt.shape[1] :].tolist())) > 6
    torch.testing.assert_close(model.generate(prompt, assistant_model=draft, **options), expected)
    torch.testing.assert_close(model.generate(prompt, prompt_lookup_num_tokens=5, **options), expected)


def test_a_cache_gives_back_what_it_holds(model: Any) -> None:
    prompt = TOKENS.repeat(1, 8)
    cache = DynamicCache()
    with torch.no_grad():
        whole = model(prompt).logits
        model(prompt, past_key_values=cache)
        cache.crop(-60)
        found = model(prompt[:, -60:], past_key_values=cache).logits
    torch.testing.assert_close(found, whole[:, -60:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"90 tokens were to be taken back .* at most 64"):
        cache.crop(-90)


def test_servers_that_keep_nothing_for_convolutions_are_refused(
    model: Any, config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> None:
    """vLLM and SGLang pass their attention along; without convolutions that is enough."""
    asked = {"position_ids": torch.arange(TOKENS.shape[1])[None], "use_cache": False, "attention_instances": {}}
    with pytest.raises(ValueError, match="vLLM and SGLang"):
        model.model(TOKENS, **asked)
    plain = config(projection={"kind": "lost", "short_conv_width": 0}, model=SIZES)
    export(checkpoint_of(plain, tmp_path / "plain", prepared), tmp_path / "served", "hf")
    AutoModel.from_pretrained(tmp_path / "served", trust_remote_code=True)(TOKENS, **asked)
