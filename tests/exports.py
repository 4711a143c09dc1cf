"""Checkpoints that no training made, for exports: models of several kinds with random weights."""

from pathlib import Path

import numpy as np

from lost.checkpoint import Checkpoint, TrainState, write
from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.init import initial_values

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 320}
# What an imported model may bring, under both kinds of folders.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
HOSTS = {
    "Llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 24,
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16},
    },
    "Qwen2": {"attention_bias": "qkv", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "Qwen3": {"use_qk_norm": True, "head_dim": 24},
}


def checkpoint_of(settings: Config, path: Path, dataset: Dataset) -> Checkpoint:
    """Random values, large enough that every layer, norm and bias counts."""
    draw = np.random.default_rng(0)
    values = [
        (
            name,
            array + draw.normal(0, 0.1, array.shape).astype(np.float32)
            if array.ndim == 1 and array.dtype != np.int32
            else array,
        )
        for name, array in initial_values(settings.replace("model", initializer_range=0.1))
    ]
    return write(path, values, (), settings, TrainState(step=3), dataset.tokenizer)
