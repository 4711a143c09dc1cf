"""Layers of an exported folder, written and read: `projections` of its config.json, and the names of its arrays.

A folder with plain matrices alone has neither: it is a Llama's or a Qwen3's.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from lost.config import ModelConfig, ProjectionConfig
from lost.config.fields import Count, Positive, Share
from lost.config.projection import Activation
from lost.model.parameters import Architecture, gate_is_activated, layer_projections
from lost.projections import Projection
from lost.projections.lost import Lost
from lost.projections.sltrain import SlTrain
from lost.storage.arrays import NamedArrays

SEQ_LEN = "lost_seq_len"  # the key for the length of the windows in training
_GATE, _NORMED = "mlp.gate_proj", ("self_attn.q_proj", "self_attn.k_proj")


def is_plain(config: Architecture) -> bool:
    """Whether other programs support the model without code of ours."""
    return architecture(config) is not None


def architecture(config: Architecture) -> str | None:
    """Return the class of transformers and mlx-lm for the model.

    None: there is none, because not all layers are plain matrices, or for this combination of biases and norms.
    """
    model, layers = config.model, range(config.model.num_hidden_layers)
    if any(each.settings.kind != "dense" for layer in layers for each in layer_projections(config, layer)):
        return None
    if model.use_qk_norm:
        return "Qwen3ForCausalLM" if model.attention_bias is False and not model.mlp_bias else None
    return "LlamaForCausalLM"


def stored_layers(config: Architecture) -> dict[str, dict[str, Any]]:
    """Return how each projection is stored, with defaults resolved.

    `mlp.up_proj` is for most blocks, `layers.3.mlp.up_proj` for a block that differs.
    """
    stored: dict[str, dict[str, Any]] = {}
    by_part: dict[str, list[dict[str, Any]]] = {}
    for layer in range(config.model.num_hidden_layers):
        for each in layer_projections(config, layer):
            by_part.setdefault(_part(each), []).append(_stored(config, each))
    for part, layers in by_part.items():
        stored[part] = max(layers, key=layers.count)
        stored |= {f"layers.{n}.{part}": each for n, each in enumerate(layers) if each != stored[part]}
    return stored


def renamed(config: Architecture, arrays: NamedArrays) -> Iterator[tuple[str, Any]]:
    """Yield arrays under an export's names."""
    plain, model = is_plain(config), config.model
    for name, array in arrays:
        target = exported_name(model, plain, name)
        yield target, array
        if plain and model.attention_bias == "qkv" and name.endswith(".v_proj.bias"):
            yield target.replace(".v_proj.", ".o_proj."), np.zeros(model.hidden_size, array.dtype)


def exported_name(model: ModelConfig, plain: bool, name: str) -> str:
    """Return an array's name in an export.

    There, thin matrices are linear layers of their own, with a `weight`. If queries and keys are normed and layers
    aren't plain, norm and layer are parts of one module, so that the library's own attention can be used.
    """
    target = f"{name}.weight" if name.endswith((".down", ".up")) else name
    if model.use_qk_norm and not plain:
        target = re.sub(r"\.([qk])_proj\.", r".\1_proj.linear.", target)
        target = re.sub(r"\.([qk])_norm\.", r".\1_proj.norm.", target)
    return target


def _part(projection: Projection) -> str:
    return projection.name.split(".", 3)[-1]


def _stored(config: Architecture, projection: Projection) -> dict[str, Any]:
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
    elif settings.kind != "dense":  # of an extension
        kind = settings.model_dump()
    if projection.earlier_tokens:
        kind["earlier_tokens"] = projection.earlier_tokens
    if projection.bias:
        kind["bias"] = True
    if config.model.use_qk_norm and _part(projection) in _NORMED:
        kind["norm"] = config.model.head_width
    if _part(projection) == _GATE:
        kind["gate_activation"] = gate_is_activated(config, projection)
    return kind


class _Stored(BaseModel):
    """How one layer is stored, as `_stored` writes it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["dense", "lowrank", "sltrain", "lost"]
    rank: Count = 1
    activation: Activation = "none"
    activation_at: Literal["low_rank", "inner", "output"] = "low_rank"
    channels: Count = 1
    gamma: Share | None = None
    scale: Positive = 1.0
    entries: Count = 1
    earlier_tokens: Annotated[int, Field(ge=0, le=15)] = 0
    bias: bool = False
    norm: Count | None = None
    gate_activation: bool = True


@dataclass(frozen=True)
class _Read:
    """A model as it was read: an `Architecture`."""

    model: ModelConfig
    projection: ProjectionConfig


def read_layers(stored: Any, model: ModelConfig) -> tuple[ModelConfig, ProjectionConfig]:
    """Return the model and the projections that `stored_layers` describes: its inverse.

    What only affects initialization is not known, and has its default.

    Args:
        stored: `projections` of a config.json, unchecked.
        model: the rest of it; biases and norms of layers are taken from `stored`.

    Raises:
        ValueError: no export of ours says so; or (ConfigError) a rank is larger than its matrix.
    """
    given = TypeAdapter(dict[str, _Stored]).validate_python(stored)
    blocks = range(model.num_hidden_layers)
    parts = {_part(each): each for each in layer_projections(_Read(model, ProjectionConfig(kind="dense")), 0)}
    if missing := parts.keys() - given.keys():
        raise ValueError(f"projections lacks {min(missing)}")
    layers = {part: [given.get(f"layers.{n}.{part}", given[part]) for n in blocks] for part in parts}
    reads, o_proj = layers[_NORMED[0]][0], layers["self_attn.o_proj"][0]
    model = model.model_copy(
        update={
            "attention_bias": True if o_proj.bias else "qkv" if reads.bias else False,
            "mlp_bias": layers[_GATE][0].bias,
            "use_qk_norm": reads.norm is not None,
        }
    )
    settings = {part: [_settings(parts[part], each) for each in layers[part]] for part in parts}
    usual = {part: _most_common(each) for part, each in settings.items()}
    base = _most_common(usual.values())
    overrides = {f"*.{part}": each for part, each in usual.items() if each != base}
    for part, each in settings.items():
        overrides |= {f"model.layers.{n}.{part}": own for n, own in enumerate(each) if own != usual[part]}
    gates = all(each.gate_activation for each in layers[_GATE])
    found = ProjectionConfig.model_validate({**base, "keep_gate_activation": gates, "overrides": overrides})
    again = TypeAdapter(dict[str, _Stored]).validate_python(stored_layers(_Read(model, found)))
    for part in parts:
        for n in blocks:  # what no settings of ours give is found here, whatever it is
            if again.get(f"layers.{n}.{part}", again[part]) != layers[part][n]:
                raise ValueError(f"projections describes no layer of ours: layers.{n}.{part}, {layers[part][n]!r}")
    return model, found


def _settings(plain: Projection, stored: _Stored) -> dict[str, Any]:
    """Return the settings of a projection that is stored so."""
    kind, rank, activation = stored.kind, stored.rank, stored.activation
    width = {"short_conv_width": stored.earlier_tokens + 1 if stored.earlier_tokens else 0}
    if kind == "dense":
        return {"kind": kind}
    if kind == "lowrank":
        return {"kind": kind, "rank": rank, **width} | (
            {} if activation == "none" else {"kind": "cola", "activation": activation}
        )
    if kind == "sltrain":
        density = _share(stored.entries, plain.in_features * plain.out_features)
        return {"kind": kind, "rank": rank, "alpha": stored.scale * rank, "density": density}
    gamma = {"learn_gamma": True} if stored.gamma is None else {"gamma": stored.gamma}
    density = _share(stored.channels, plain.in_features)
    return {
        **{"kind": kind, "rank": rank, "density": density, "align": 1, "activation": activation},
        **{"activation_at": stored.activation_at, "learn_gamma": False, **gamma, **width},
    }


def _share(kept: int, of: int) -> float:
    """Return a share of which exactly `kept` is the integer part."""
    return min(1.0, (kept + 0.5) / of)


def _most_common(settings: Iterable[dict[str, Any]]) -> dict[str, Any]:
    counted = [(each, repr(each)) for each in settings]
    ((usual, _),) = Counter(text for _, text in counted).most_common(1)
    return next(each for each, text in counted if text == usual)
