"""config.json of an exported folder: Llama's, with a description of layers that aren't plain matrices.

One folder serves transformers (`auto_map`) and mlx-lm (`model_file`). Where every layer is a plain matrix it needs
neither: it is a Llama or a Qwen3, and opens without code of ours. A Qwen2 is written as a Llama with a zero bias in
attention's outputs: transformers reads every tokenizer beside a Qwen2 as Qwen2's own.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lost
from lost.config import Config
from lost.model.parameters import gate_is_activated, layer_projections, vocabulary
from lost.projections import Projection
from lost.projections.lost import Lost
from lost.projections.sltrain import SlTrain
from lost.storage.arrays import NamedArrays

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
_GATE, _NORMED = "mlp.gate_proj", ("self_attn.q_proj", "self_attn.k_proj")


def is_plain(config: Config) -> bool:
    """Whether other programs support the model without code of ours."""
    return architecture(config) is not None


def architecture(config: Config) -> str | None:
    """Return the class of transformers and mlx-lm for the model.

    None: there is none, because not all layers are plain matrices, or for this combination of biases and norms.
    """
    model, layers = config.model, range(config.model.num_hidden_layers)
    if any(each.settings.kind != "dense" for layer in layers for each in layer_projections(config, layer)):
        return None
    if model.use_qk_norm:
        return "Qwen3ForCausalLM" if model.attention_bias is False and not model.mlp_bias else None
    return "LlamaForCausalLM"


def code_files() -> dict[str, bytes]:
    """Return the modules for a folder whose layers aren't plain matrices, by file name."""
    names = {f"{target.partition('.')[0]}.py" for target in _AUTO_MAP.values()} | {_MODEL_FILE}
    return {name: (_TEMPLATES / name).read_bytes() for name in sorted(names)}


def model_config(config: Config, end_of_text: int, dtype: str) -> dict[str, Any]:
    """Return the content of config.json.

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
        VERSION: lost.__version__,
    }


def generation_config(end_of_text: int) -> dict[str, Any]:
    """Return the content of generation_config.json."""
    return {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}


def stored_layers(config: Config) -> dict[str, dict[str, Any]]:
    """Return how each projection is stored, with defaults resolved.

    `mlp.up_proj` is for most blocks, `layers.3.mlp.up_proj` for a block that differs.
    """
    stored: dict[str, dict[str, Any]] = {}
    by_part: dict[str, list[dict[str, Any]]] = {}
    for layer in range(config.model.num_hidden_layers):
        for projection in layer_projections(config, layer):
            by_part.setdefault(_part(projection), []).append(_stored(config, projection))
    for part, layers in by_part.items():
        stored[part] = max(layers, key=layers.count)
        stored |= {f"layers.{n}.{part}": each for n, each in enumerate(layers) if each != stored[part]}
    return stored


def renamed(config: Config, arrays: NamedArrays) -> Iterator[tuple[str, Any]]:
    """Yield arrays under an export's names.

    There, thin matrices are linear layers of their own, with a `weight`. If queries and keys are normed and layers
    aren't plain, norm and layer are parts of one module, so that the library's own attention can be used.
    """
    plain, model = is_plain(config), config.model
    together = model.use_qk_norm and not plain
    for name, array in arrays:
        target = f"{name}.weight" if name.endswith((".down", ".up")) else name
        if together:
            target = re.sub(r"\.([qk])_proj\.", r".\1_proj.linear.", target)
            target = re.sub(r"\.([qk])_norm\.", r".\1_proj.norm.", target)
        yield target, array
        if plain and model.attention_bias == "qkv" and name.endswith(".v_proj.bias"):
            yield target.replace(".v_proj.", ".o_proj."), np.zeros(model.hidden_size, array.dtype)


def _part(projection: Projection) -> str:
    return projection.name.split(".", 3)[-1]


def _stored(config: Config, projection: Projection) -> dict[str, Any]:
    settings = projection.settings
    kind: dict[str, Any] = {"kind": settings.kind}
    if settings.kind in ("lowrank", "cola"):
        activation = settings.activation if projection.has_activation else "none"
        kind = {"kind": "lowrank", "rank": settings.rank, "activation": activation}
    elif isinstance(projection, SlTrain):
        kind |= {"rank": settings.rank, "scale": projection.scale, "entries": projection.kept}
    elif isinstance(projection, Lost):
        gamma = None if settings.learn_gamma else settings.gamma  # None: each layer has a parameter of this name
        kind |= {"rank": settings.rank, "channels": projection.channels, "gamma": gamma}
        kind |= {"activation": settings.activation, "activation_at": settings.activation_at}
    if projection.bias:
        kind["bias"] = True
    if config.model.use_qk_norm and _part(projection) in _NORMED:
        kind["norm"] = config.model.head_width
    if _part(projection) == _GATE:
        kind["gate_activation"] = gate_is_activated(config, projection)
    return kind
