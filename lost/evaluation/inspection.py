"""Numbers about a model in training by which trouble shows before the loss does (`train.inspect_every`)."""

from typing import Any

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Split
from lost.engine import Engine
from lost.errors import CheckpointError
from lost.model.inspect import inspect_layers


def first_window(split: Split, seq_len: int) -> Batch:
    """Return the beginning of a text, which every inspection of a run looks at."""
    return Batch(split.read(0, min(seq_len + 1, split.tokens))[None])


def inspect_model(engine: Engine, config: Config, window: Batch) -> dict[str, Any]:
    """Return an inspection, as metrics.jsonl has it.

    Singular values are LAPACK's, on this machine's CPU in float64: a product of two factors has few, a dense weight as
    many as its shorter side.

    Args:
        engine: holds the model, whole.
        config: of its layers.
        window: of text that it reads.

    Returns:
        activation_rms: by block, root mean square of its output.
        largest_logit: of all positions and entries.
        spectral_norm: by projection, the largest singular value of its weight, activations taken as the identity,
            without those of which no weight is known; None where there is none, or one isn't finite.
        effective_rank: by projection, as `LayerReport` has it; or None.
    """
    activations, largest_logit = engine.activations(window)
    try:
        layers = [each for each in inspect_layers(config, dict(engine.dump())) if len(each.singular_values)]
    except (CheckpointError, np.linalg.LinAlgError):
        layers = []
    return {
        "activation_rms": {f"model.layers.{number}": each for number, each in enumerate(activations)},
        "largest_logit": largest_logit,
        "spectral_norm": {each.name: float(each.singular_values[0]) for each in layers} or None,
        "effective_rank": {each.name: each.effective_rank for each in layers} or None,
    }
