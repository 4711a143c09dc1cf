"""mlx-lm on exported folders: opened, to check exports, and quantized; runs don't need it."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load, load_model, quantize_model

from lost.backends.mlx.arrays import to_array
from lost.interop.to_hf.check import Reading

VERSION = mlx_lm.__version__


def read(folder: Path, tokens: Sequence[int], texts: Sequence[str]) -> Reading:
    """Open a folder in float32, run the model on tokens and the tokenizer on texts, on the CPU.

    Raises:
        ValueError: weights are missing or unknown.
    """
    with mx.stream(mx.cpu):  # a GPU may multiply float32 in lower precision
        model, tokenizer = load(str(folder), {"trust_remote_code": True}, trust_remote_code=True)[:2]
        model.set_dtype(mx.float32)
        scores = np.array(model(mx.array([list(tokens)]))[0])
    as_text = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids = [tokenizer.encode(text, **as_text) for text in texts]
    return Reading(scores, ids)


def quantize(folder: Path, bits: int, group_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the config.json and the arrays of a folder's model once its matrices are quantized.

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
        return described, {name: to_array(each) for name, each in dict(tree_flatten(model.parameters())).items()}
