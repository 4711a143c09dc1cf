"""Quantisation of exported folders, by mlx-lm's own quantiser."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

from lost.backends.mlx.arrays import to_array


def quantize(folder: Path, bits: int, group_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the config.json and the arrays of a folder's model once its matrices are quantised.

    Matrices whose rows aren't a multiple of `group_size` long stay as they are, as mlx-lm's predicate has it.

    Args:
        folder: an export of ours, whose code mlx-lm runs.
        bits: of an entry.
        group_size: entries of a row with one scale and one bias.
    """
    with mx.stream(mx.cpu):
        model, described = load_model(folder, trust_remote_code=True)
        with redirect_stdout(io.StringIO()):  # it prints, where an answer in JSON may be printed
            model, described = quantize_model(model, described, group_size, bits)
        return described, {name: to_array(each) for name, each in tree_flatten(model.parameters())}
