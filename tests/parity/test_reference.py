"""Both backends against the numpy reference, and against each other, in logits and in every gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from device import TORCH
from values import engine_with, random_values

from lost.backends.torch.model import rotary_tables
from lost.config import Config
from lost.data.batch import Batch
from lost.engine import BACKENDS
from lost.model import reference
from lost.model.init import initial_values
from lost.model.parameters import parameter_table

CASES = [
    {"kind": "lost"},
    {"kind": "lost", "activation": "none", "values": "complement"},
    {"kind": "lost", "keep_gate_activation": False},
    {"kind": "lost", "overrides": {"*.q_proj": {"kind": "dense"}, "*.down_proj": {"rank": 2, "gamma": 0.4}}},
    {"kind": "lost", "activation": "gelu", "activation_at": "inner"},
    {"kind": "lost", "activation": "relu2", "learn_gamma": True},
    {"kind": "lost", "activation_at": "output", "learn_gamma": True, "keep_gate_activation": False},
    {"kind": "lowrank", "keep_gate_activation": False},
    {"kind": "cola", "keep_gate_activation": False},
    {"kind": "cola", "activation": "gelu"},
    {"kind": "cola", "activation": "relu2"},
    {"kind": "lost", "short_conv_width": 3},
    {"kind": "cola", "short_conv_width": 4},
    {"kind": "sltrain"},
    {"kind": "dense"},
]

LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
RELATIVES = [
    {"attention_bias": "qkv", "head_dim": 6},
    {"attention_bias": True, "mlp_bias": True, "use_qk_norm": True},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}, "head_dim": 8},
]


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Compare with the largest logit: a float32 sum loses in proportion to its terms, and the CPU chooses their order.

    Entry by entry, three of 627 logits near zero were 2e-5 off on one CPU, and none on others.
    """
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("projection", CASES)
def test_logits(config: Callable[..., Config], logits: Callable, projection: dict, tied: bool, backend: str) -> None:
    settings = config(projection=projection, model={"tie_word_embeddings": tied})
    values = random_values(settings, np.float32)
    tokens = np.random.default_rng(0).integers(0, 19, (3, 11))
    found = logits(engine_with(settings, values, backend), tokens)
    assert_near(found, reference.logits(settings, values, tokens), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", RELATIVES)
def test_relatives_of_llama(config: Callable[..., Config], logits: Callable, model: dict, backend: str) -> None:
    for projection in ({"kind": "lost"}, {"kind": "dense"}):
        settings = config(projection=projection, model=model)
        values = random_values(settings, np.float32)
        tokens = np.random.default_rng(0).integers(0, 19, (3, 40))
        found = logits(engine_with(settings, values, backend), tokens)
        np.testing.assert_allclose(found, reference.logits(settings, values, tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("keeps", ["none", "narrow", "full"])
@pytest.mark.parametrize("model", RELATIVES[:2])
def test_gradients_of_relatives(config: Callable[..., Config], model: dict, keeps: str) -> None:
    settings = config(model=model, train={"grad_clip": 0.0, "checkpoint_activations": keeps})
    values = random_values(settings, np.float32)
    tokens = np.random.default_rng(0).integers(0, 19, (4, 9))
    expected, found = (gradients(settings, values, tokens, name) for name in BACKENDS)
    assert any(name.endswith(".bias") for name in expected)
    for name, gradient in found.items():
        assert np.linalg.norm(gradient - expected[name]) <= 2e-5 * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize(
    ("projection", "z_loss", "tied"),
    [
        *((each, 0.0, False) for each in CASES),
        *((CASES[0], z_loss, True) for z_loss in (0.0, 0.3)),
        (CASES[-1], 0.0, True),
    ],
)
def test_every_gradient(config: Callable[..., Config], projection: dict, z_loss: float, tied: bool) -> None:
    """Central differences of the reference in float64, entry by entry: torch in float64, MLX in float32."""
    small = {
        "hidden_size": 8,
        "intermediate_size": 6,
        "vocab_size": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    settings = config(
        projection={"rank": 3, **projection},
        model={**small, "tie_word_embeddings": tied},
        train={"grad_clip": 0.0, "z_loss": z_loss},
    )
    values = {
        name: value if value.dtype == np.int32 else value.astype(np.float64)
        for name, value in random_values(settings, np.float32).items()
    }
    tokens = np.random.default_rng(0).integers(0, 7, (2, 6))
    expected = reference.gradients(settings, values, tokens)
    assert expected.keys() == {name for name, row in parameter_table(settings).items() if row.trained}
    found = double_gradients(settings, values, tokens)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[name], atol=1e-8, rtol=1e-6, err_msg=name)
    expected = with_one_gamma(expected)
    for name, gradient in with_one_gamma(gradients(settings, values, tokens, "mlx")).items():
        allowed = 1e-5 * np.linalg.norm(expected[name]) + 1e-9  # which is the error of the differences themselves
        assert np.linalg.norm(gradient - expected[name]) <= allowed, name


def double_gradients(config: Config, values: dict[str, np.ndarray], tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients by the torch code that trains, in float64."""
    engine = engine_with(config, values, "torch")
    model = engine.model.double()
    model.model.dtype = torch.float64
    tables = rotary_tables(config.model, config.model.max_position_embeddings)
    model.model.cos, model.model.sin = (table.to(TORCH) for table in tables)
    for name, tensor in model.named_parameters():
        tensor.data.copy_(torch.from_numpy(values[name]))
    batch = torch.from_numpy(tokens).to(TORCH)
    targets = batch[:, 1:].flatten()
    (model(batch[:, :-1], targets) / len(targets)).backward()
    return {name: tensor.grad.cpu().numpy() for name, tensor in model.named_parameters() if tensor.grad is not None}


def gradients(config: Config, values: dict[str, np.ndarray], tokens: np.ndarray, backend: str) -> dict[str, np.ndarray]:
    """Gradients as a step leaves them in the first moments, unclipped."""
    engine = engine_with(config, values, backend)
    batch = Batch(tokens.astype(np.int32))
    engine.step([batch], batch.predictions, 1e-3)
    share = 1 - config.optimizer.betas[0]
    return {
        name.removesuffix(".exp_avg"): value.astype(np.float64) / share
        for name, value in engine.optimizer_state()
        if name.endswith(".exp_avg")
    }


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("projection", CASES)
def test_backends_agree(
    config: Callable[..., Config], logits: Callable, projection: dict, key_value_heads: int
) -> None:
    """At a size where sums are long, grouped queries and tied embeddings among it.

    With squares float32 carries less far: numpy's own logits are then 2e-5 off those in float64.
    """
    tolerance = 5e-5 if projection.get("activation") == "relu2" else 1e-5
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "vocab_size": 300}
    settings = config(
        projection={"rank": 16, **projection},
        model={**sizes, "num_key_value_heads": key_value_heads, "tie_word_embeddings": key_value_heads == 2},
        train={"grad_clip": 0.0},
    )
    values = dict(initial_values(settings.replace("model", initializer_range=0.1)))
    tokens = np.random.default_rng(0).integers(0, 300, (4, 33))
    torch_logits, mlx_logits = (logits(engine_with(settings, values, name), tokens) for name in BACKENDS)
    assert_near(mlx_logits, torch_logits, tolerance)
    expected, found = (with_one_gamma(gradients(settings, values, tokens, name)) for name in BACKENDS)
    for name, gradient in found.items():
        assert np.linalg.norm(gradient - expected[name]) <= tolerance * np.linalg.norm(expected[name]), name


def with_one_gamma(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join the gammas to one vector: the gradient of each alone is a sum that may cancel."""
    gammas = [gradient for name, gradient in gradients.items() if name.endswith(".gamma")]
    others = {name: gradient for name, gradient in gradients.items() if not name.endswith(".gamma")}
    return others | ({"every gamma": np.concatenate(gammas)} if gammas else {})


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_matches_the_engine(config: Callable[..., Config], backend: str) -> None:
    settings = config()
    values = random_values(settings, np.float32)
    tokens = np.random.default_rng(0).integers(0, 19, (4, 9)).astype(np.int32)
    nll, count = engine_with(settings, values, backend).evaluate([Batch(tokens)])
    assert count == 32
    assert nll / count == pytest.approx(reference.loss(settings, values, tokens), abs=1e-6)
