"""With dense projections the MLX model is mlx-lm's llama; and mlx-lm opens a checkpoint as our model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models import llama
from mlx_lm.utils import load_model

from lost.backends.mlx.model import Model
from lost.config import Config, ModelConfig, ProjectionConfig
from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.model.init import initial_values

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 101, "rope_theta": 5000.0}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_against_llama(config: Callable[..., Config], logits: Callable, key_value_heads: int, tied: bool) -> None:
    own = config(
        projection={"kind": "dense"},
        model={**SIZES, "num_key_value_heads": key_value_heads, "tie_word_embeddings": tied, "initializer_range": 0.1},
    )
    theirs = llama.Model(llama.ModelArgs.from_dict({"model_type": "llama", **own.model.model_dump()}))
    engine = create_engine(own, "mlx", "cpu")
    engine.load(initial_values(own))
    weights = dict(tree_flatten(engine.model.parameters()))
    assert weights.keys() == dict(tree_flatten(theirs.parameters())).keys()
    theirs.load_weights(list(weights.items()))
    tokens = np.random.default_rng(0).integers(0, 101, (4, 33))
    np.testing.assert_allclose(logits(engine, tokens), np.array(theirs(mx.array(tokens))), atol=1e-5)

    prompt = [5, 9, 100, 2]
    expected = [int(token) for token, _ in generate_step(mx.array(prompt), theirs, max_tokens=12)]
    assert list(engine.generate(prompt, lambda scores: int(scores.argmax()), 12)) == expected


@dataclass(frozen=True)
class Described:
    """A model's description as mlx-lm wants it: made of the config.json beside the weights."""

    model: ModelConfig
    projection: ProjectionConfig

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Described":
        model = {key: value for key, value in values.items() if key in ModelConfig.model_fields}
        return cls(ModelConfig.model_validate(model), ProjectionConfig.model_validate(values["projection"]))


def test_mlx_lm_loads_a_checkpoint(
    lost: Callable, logits: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=2")
    assert done.code == 0, done.err
    path = next((tmp_path / "run" / "checkpoints").iterdir())
    model, description = load_model(path, get_model_classes=lambda config: (Model, Described))
    assert description["model_type"] == "lost"
    from lost.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    engine = create_engine(checkpoint.config, "torch", "cpu")
    engine.load(checkpoint.parameters())
    tokens = np.random.default_rng(0).integers(0, 300, (2, 16))
    np.testing.assert_allclose(np.array(model(mx.array(tokens))), logits(engine, tokens), atol=1e-5)
