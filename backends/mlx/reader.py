"""mlx-lm as a reader of exported folders, to check exports; runs don't need it."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.utils import load

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
