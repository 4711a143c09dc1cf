"""Rotary frequencies, shared by the reference and both backends."""

import math

import numpy as np

from lost.config import ModelConfig


def frequencies(model: ModelConfig) -> np.ndarray:
    """Return the radians per position of each pair of entries, (head_width / 2,) float64 (Su et al., arXiv 2104.09864).

    With `rope_scaling` as transformers computes it: linear (position interpolation, arXiv 2306.15595) and llama3.
    """
    width, scaling = model.head_width, model.rope_scaling
    plain: np.ndarray = model.rope_theta ** (-np.arange(0, width, 2) / width)
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    low, high, length = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    assert low is not None
    assert high is not None
    assert length is not None
    turns = length * plain / (2 * math.pi)  # over the context of pre-training
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 1 for many turns, 0 for few
    return plain * (kept + (1 - kept) / scaling.factor)
