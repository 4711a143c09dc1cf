"""Grown models: what they compute, what they train, which sizes are refused."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lost.config import Config
from lost.errors import UserError
from lost.model import reference
from lost.model.parameters import parameter_table, projections
from lost.reshape.grow.copies import OfWeights
from lost.reshape.grow.model import grown_moments, grown_parameters
from lost.reshape.grow.target import Target, sizes, target

CONFIG = Callable[..., Config]
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 9))
KINDS: list[dict[str, Any]] = [
    {"kind": "lost"},
    {"kind": "lost", "learn_gamma": True, "activation": "relu2", "start": "zero"},
    {"kind": "lost", "activation": "gelu", "activation_at": "inner", "start": "random"},
    {"kind": "lost", "activation_at": "output", "short_conv_width": 3},
    {"kind": "cola", "short_conv_width": 3},
    {"kind": "lowrank", "start": "orthogonal"},
    {"kind": "sltrain"},
    {"kind": "lost", "overrides": {"*.0.mlp.*": {"kind": "dense"}, "*.1.*.k_proj": {"kind": "sltrain", "rank": 3}}},
    {"kind": "sltrain", "alpha": 3.0, "overrides": {"*.v_proj": {"kind": "cola"}, "*.q_proj": {"rank": 2}}},
]
MODELS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True, "num_key_value_heads": None, "head_dim": 6},
    {"attention_bias": True, "mlp_bias": True, "use_qk_norm": True},
]
GROWTHS = [
    {"rank": 6},
    {"density": 0.5},
    {"hidden": 32},
    {"hidden": 48},
    {"intermediate": 48},
    {"layers": 5},
    {"hidden": 32, "intermediate": 72, "rank": 7, "density": 0.3, "layers": 3},
]


def some_values(config: Config, dtype: Any = np.float64, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of no special structure, as a training leaves them; indices at random places."""
    random = np.random.default_rng(seed)
    below = {f"{each.name}.{key}": own.below for each in projections(config) for key, own in each.tensors().items()}
    values = {}
    for name, row in parameter_table(config).items():
        if row.integer:
            values[name] = np.sort(random.choice(below[name], row.shape, replace=False)).astype(np.int32)
        else:
            values[name] = (random.standard_normal(row.shape) * 0.3 + name.endswith("norm.weight")).astype(dtype)
    return values


def exact(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value if value.dtype == np.int32 else value.astype(np.float64) for name, value in values.items()}


def logits(config: Config, values: dict[str, np.ndarray]) -> np.ndarray:
    return reference.logits(config, exact(values), TOKENS)


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.sampled_from(MODELS), st.sampled_from(GROWTHS), st.integers(0, 9))
def test_a_grown_model_computes_the_same(
    config: CONFIG, projection: dict, model: dict, growth: dict[str, float], seed: int
) -> None:
    if projection["kind"] in ("cola", "lowrank"):
        growth = {key: size for key, size in growth.items() if key != "density"} or {"rank": 8}
    old = config(projection=projection, model=model, train={"seed": seed})
    values = some_values(old, seed=seed)
    goal = target(old, growth, "identity")
    grown = dict(grown_parameters(goal, values))
    assert {name: array.shape for name, array in grown.items()} == {
        name: row.shape for name, row in parameter_table(goal.new).items()
    }
    assert goal.exact
    expected = logits(old, values)
    assert np.abs(expected).max() > 0.1
    assert np.abs(logits(goal.new, grown) - expected).max() <= 1e-9 * np.abs(expected).max()
