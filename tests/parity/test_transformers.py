"""With dense projections the model is transformers' LlamaForCausalLM: same names, logits, gradients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from device import TORCH
from transformers import LlamaConfig, LlamaForCausalLM

from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.kernels.loss import head_loss
from lost.config import Config

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 101, "rope_theta": 5000.0}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_against_llama(config: Callable[..., Config], key_value_heads: int, tied: bool) -> None:
    own = config(
        projection={"kind": "dense"},
        model={**SIZES, "num_key_value_heads": key_value_heads, "tie_word_embeddings": tied},
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**own.model.model_dump() | {"initializer_range": 0.1}))
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "norm" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    engine = TorchEngine(own, TORCH)
    engine.load((name, tensor.detach().numpy()) for name, tensor in theirs.named_parameters())
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 101, (4, 33)))

    answer = theirs(tokens, labels=tokens)
    found = engine.model.logits(tokens.to(TORCH)).detach().cpu()
    np.testing.assert_allclose(found.numpy(), answer.logits.detach().numpy(), atol=1e-5, rtol=1e-5)
    answer.loss.backward()
    states = engine.model.model(tokens.to(TORCH)[:, :-1]).flatten(0, 1)
    targets = tokens.to(TORCH)[:, 1:].flatten()
    loss = head_loss(states, engine.model.head, targets) / len(targets)
    assert loss.item() == pytest.approx(answer.loss.item(), rel=1e-6)
    loss.backward()
    expected = dict(theirs.named_parameters())
    for name, tensor in engine.model.named_parameters():
        assert tensor.grad is not None
        found, wanted = tensor.grad.cpu().numpy(), expected[name].grad.numpy()
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted), name
