"""The torch model against the numpy reference, in logits and in every gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lost import reference
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.loss import head_loss
from lost.backends.torch.model import rotary_tables
from lost.config import Config
from lost.parameters import parameter_table

CASES = [
    {"kind": "lost"},
    {"kind": "lost", "activation": "none", "values": "complement"},
    {"kind": "lost", "keep_gate_activation": False},
    {"kind": "lost", "overrides": {"*.q_proj": {"kind": "dense"}, "*.down_proj": {"rank": 2, "gamma": 0.4}}},
    {"kind": "lowrank", "keep_gate_activation": False},
    {"kind": "dense"},
]


def random_values(config: Config, dtype: type) -> dict[str, np.ndarray]:
    """Values of no special structure, norms included; channels at random places."""
    random = np.random.default_rng(1)
    values = {}
    for name, row in parameter_table(config).items():
        if row.integer:
            width = config.model.intermediate_size if ".down_proj." in name else config.model.hidden_size
            values[name] = np.sort(random.choice(width, row.shape, replace=False)).astype(np.int32)
        else:
            values[name] = (random.standard_normal(row.shape) * 0.3 + (len(row.shape) == 1)).astype(dtype)
    return values


def engine_with(config: Config, values: dict[str, np.ndarray]) -> TorchEngine:
    engine = TorchEngine(config, "cpu")
    engine.load(
        (name, value.astype(np.float32) if value.dtype != np.int32 else value) for name, value in values.items()
    )
    return engine


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("projection", CASES)
def test_logits(config: Callable[..., Config], projection: dict, tied: bool) -> None:
    settings = config(projection=projection, model={"tie_word_embeddings": tied})
    values = random_values(settings, np.float32)
    tokens = np.random.default_rng(0).integers(0, 19, (3, 11))
    engine = engine_with(settings, values)
    with torch.no_grad():
        found = engine.model.logits(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(found, reference.logits(settings, values, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("projection", CASES)
def test_every_gradient(config: Callable[..., Config], projection: dict, tied: bool) -> None:
    """Central differences of the reference in float64, entry by entry, against autograd in float64."""
    small = {
        "hidden_size": 8,
        "intermediate_size": 6,
        "vocab_size": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    settings = config(projection={"rank": 3, **projection}, model={**small, "tie_word_embeddings": tied})
    values = random_values(settings, np.float64)
    tokens = np.random.default_rng(0).integers(0, 7, (2, 6))
    found = gradients(settings, values, tokens)
    assert found.keys() == {name for name, row in parameter_table(settings).items() if row.trained}
    for name, gradient in found.items():
        np.testing.assert_allclose(
            gradient, differences(settings, values, tokens, name), atol=1e-8, rtol=1e-6, err_msg=name
        )


def gradients(config: Config, values: dict[str, np.ndarray], tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients by the code that trains, in float64."""
    engine = engine_with(config, values)
    model = engine.model.double()
    model.model.dtype = torch.float64
    shape = config.model.max_position_embeddings, config.model.head_dim, config.model.rope_theta
    model.model.cos, model.model.sin = rotary_tables(*shape)
    for name, tensor in model.named_parameters():
        tensor.data.copy_(torch.from_numpy(values[name]))
    batch = torch.from_numpy(tokens)
    states = model.model(batch[:, :-1]).flatten(0, 1)
    targets = batch[:, 1:].flatten()
    (head_loss(states, model.head, targets) / len(targets)).backward()
    return {name: tensor.grad.numpy() for name, tensor in model.named_parameters() if tensor.grad is not None}


def differences(config: Config, values: dict[str, np.ndarray], tokens: np.ndarray, name: str) -> np.ndarray:
    step, result = 1e-5, np.empty_like(values[name])
    for place in np.ndindex(result.shape):
        ends = []
        for sign in (1, -1):
            moved = values[name].copy()
            moved[place] += sign * step
            ends.append(reference.loss(config, {**values, name: moved}, tokens))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


def test_loss_matches_the_engine(config: Callable[..., Config]) -> None:
    from lost.batches import Batch

    settings = config()
    values = random_values(settings, np.float32)
    tokens = np.random.default_rng(0).integers(0, 19, (4, 9)).astype(np.int32)
    nll, count = engine_with(settings, values).evaluate([Batch(tokens)])
    assert count == 32
    assert nll / count == pytest.approx(reference.loss(settings, values, tokens), abs=1e-6)
