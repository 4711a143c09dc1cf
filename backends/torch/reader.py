"""transformers as a reader of exported folders, to check exports; runs don't need it."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lost.errors import ExportError
from lost.interop.to_hf.check import Reading

VERSION = transformers.__version__


def read(folder: Path, tokens: Sequence[int], texts: Sequence[str]) -> Reading:
    """Open a folder in float32, run the model on tokens and the tokenizer on texts.

    Raises:
        ExportError: weights are missing or unknown.
    """
    with_code = "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)  # about optional parts, when they are imported
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=with_code, dtype=torch.float32, output_loading_info=True
        )
    finally:
        transformers_logging.enable_progress_bar()
        logging.disable(logging.NOTSET)
    model, report = loaded
    if wrong := {kind: sorted(map(str, names)) for kind, names in report.items() if names}:
        raise ExportError(f"transformers {VERSION} doesn't load the export completely: {wrong}; nothing was kept")
    with torch.no_grad():
        scores = model.eval()(torch.tensor([list(tokens)])).logits[0].numpy()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=with_code)
    as_text = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids = [tokenizer.encode(text, **as_text) for text in texts]
    return Reading(scores, ids)
