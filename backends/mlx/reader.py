"""How mlx-lm opens an exported folder: the check of an export, and nothing that a run needs."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.utils import load

from lost.interop.to_hf.check import Reading

VERSION = mlx_lm.__version__


def read(folder: Path, tokens: Sequence[int], texts: Sequence[str]) -> Reading:
    """Open a folder in float32, ask the model about tokens and the tokenizer about texts. Runs on the CPU.

    Raises:
        ValueError: weights that the model misses, or doesn't know.
    """
    with mx.stream(mx.cpu):  # a GPU may multiply float32 in less
        model, tokenizer = load(str(folder), {"trust_remote_code": True}, trust_remote_code=True)[:2]
        model.set_dtype(mx.float32)
        scores = np.array(model(mx.array([list(tokens)]))[0])
    as_text = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids = [tokenizer.encode(text, **as_text) for text in texts]
    return Reading(scores, ids)
