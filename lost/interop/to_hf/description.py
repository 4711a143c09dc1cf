"""config.json of an exported folder: Llama's, with a description of layers that aren't plain matrices.

One folder serves transformers (`auto_map`) and mlx-lm (`model_file`). Where every layer is a plain matrix it needs
neither: it is a Llama or a Qwen3, and opens without code of ours. A Qwen2 is written as a Llama with a zero bias in
attention's outputs: transformers reads every tokenizer beside a Qwen2 as Qwen2's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lost
from lost.config import Config
from lost.interop.layout import SEQ_LEN, architecture, stored_layers
from lost.model.parameters import vocabulary

VERSION = "lost_version"  # the key that marks a folder as an export of ours
_TEMPLATES = Path(__file__).parent / "templates"
_AUTO_MAP = {
    "AutoConfig": "configuration_lost.LostConfig",
    "AutoModel": "modeling_lost.LostModel",
    "AutoModelForCausalLM": "modeling_lost.LostForCausalLM",
}
_MODEL_FILE = "mlx_lost.py"
_SAME = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
}


def code_files() -> dict[str, bytes]:
    """Return the modules for a folder whose layers aren't plain matrices, by file name."""
    names = {f"{target.partition('.')[0]}.py" for target in _AUTO_MAP.values()} | {_MODEL_FILE}
    return {name: (_TEMPLATES / name).read_bytes() for name in sorted(names)}


def model_config(config: Config, end_of_text: int, dtype: str) -> dict[str, Any]:
    """Return the content of config.json, but for what `generation_config` says otherwise.

    Args:
        config: the run's.
        end_of_text: the token that separates documents.
        dtype: of the stored weights, `float32` or `bfloat16`.
    """
    model = config.model
    plain = architecture(config)
    if plain:
        kind: dict[str, Any] = {"architectures": [plain], "model_type": plain.removesuffix("ForCausalLM").lower()}
        kind |= {"attention_bias": bool(model.attention_bias), "mlp_bias": model.mlp_bias}
    else:
        kind = {"architectures": ["LostForCausalLM"], "model_type": "lost"}
        kind |= {"auto_map": _AUTO_MAP, "model_file": _MODEL_FILE, "projections": stored_layers(config)}
        kind |= {"attention_bias": False, "mlp_bias": False}  # given by each layer of `projections`
    scaling = model.rope_scaling.model_dump(mode="json", exclude_none=True) if model.rope_scaling else None
    rope = {"rope_theta": model.rope_theta, **(scaling or {"rope_type": "default"})}
    return kind | {
        **model.model_dump(include=_SAME),
        "vocab_size": vocabulary(config),
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "rope_parameters": rope,  # read by transformers 5,
        "rope_theta": model.rope_theta,  # and these by transformers 4 and mlx-lm
        "rope_scaling": scaling,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same, for older readers
        SEQ_LEN: config.data.seq_len,
        VERSION: lost.__version__,
    }


def generation_config(end_of_text: int, begin: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """Return the content of generation_config.json.

    Args:
        end_of_text: the token that separates documents.
        begin: the one that stands before a text.
        ends: all that a text ends with, where that isn't end-of-text alone.
    """
    ends = [*dict.fromkeys((*ends, end_of_text))]
    return {"bos_token_id": begin, "eos_token_id": ends if len(ends) > 1 else end_of_text, "pad_token_id": end_of_text}
