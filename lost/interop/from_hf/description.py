"""A folder's config.json as a model section, refused unless it can be followed exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lost.config import ModelConfig, ProjectionConfig
from lost.errors import CheckpointError, ConfigError
from lost.interop.layout import SEQ_LEN, read_layers
from lost.storage.nofollow import DOCUMENT_BYTES, read_inside
from lost.utils.parsing import parse_object

FILE = "config.json"
_ROPE_TYPES = ("default", "linear", "llama3")
_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
_OPTIONAL = ("num_key_value_heads", "head_dim", "tie_word_embeddings", "initializer_range")
# What distinguishes the architectures from a plain Llama; None: as in the folder's own field of that name.
SUPPORTED: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": None, "mlp_bias": None},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"attention_bias": "qkv"},
    "Qwen3ForCausalLM": {"attention_bias": None, "use_qk_norm": True},
}
_MOST_BLOCKS = 1000  # several times those of the deepest models: more would take long to refuse
_OWN = "LostForCausalLM"  # an export of ours with layers that aren't plain matrices


@dataclass(frozen=True)
class Description:
    """The content of a config.json.

    Attributes:
        architecture: one of `SUPPORTED`, or our own.
        model: the section of our configuration.
        projection: that section.
        seq_len: of the windows in training; None: unknown.
        remarks: on differences from the config.json.
    """

    architecture: str
    model: ModelConfig
    projection: ProjectionConfig
    seq_len: int | None
    remarks: list[str]


def read_description(folder: Path) -> Description:
    """Read a folder's config.json.

    Raises:
        CheckpointError: there is none, or it describes a model that can't be run exactly.
    """
    path = folder / FILE
    try:
        raw = parse_object(read_inside(path, folder, DOCUMENT_BYTES))
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no readable {FILE} ({error.strerror}); expected a model's folder as transformers writes it"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not JSON: {error}; expected an object with the model's fields; download the file again"
        ) from None
    architecture = _architecture(path, raw)
    if missing := [key for key in _REQUIRED if raw.get(key) is None]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; expected the fields of a {architecture}")
    if (act := raw.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"{path}: hidden_act = {act!r}: expected 'silu', the only supported one")
    if type(blocks := raw["num_hidden_layers"]) is int and blocks > _MOST_BLOCKS:
        raise CheckpointError(f"{path}: num_hidden_layers = {blocks}: expected at most {_MOST_BLOCKS}; don't trust it")
    for key in ("quantization_config", "quantization"):
        if raw.get(key):
            raise CheckpointError(
                f"{path}: {key}: the weights are quantized; expected float32, float16 or bfloat16; use the unquantized "
                "model, or dequantize it with the tool that made it"
            )
    own = {key: raw[key] for key in (*_REQUIRED, *_OPTIONAL) if raw.get(key) is not None}
    for key, value in SUPPORTED.get(architecture, {}).items():
        own[key] = raw.get(key, False) if value is None else value
    own |= _rope(path, raw)
    projection = ProjectionConfig(kind="dense")
    try:
        model = ModelConfig.model_validate(own)
        if architecture == _OWN:
            model, projection = read_layers(raw["projections"], model)
        # Within its window, sliding attention is full attention, and longer sequences are refused everywhere.
        reach = _window(architecture, raw) or model.max_position_embeddings
        windowed = ModelConfig.model_validate({**model.model_dump(), "max_position_embeddings": reach})
        limited = min(model, windowed, key=lambda each: each.max_position_embeddings)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'model'}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{path} describes an impossible model: {problems}; download the file again") from None
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} describes an impossible model: {error}; download the file again") from None
    remarks = []
    if limited.max_position_embeddings < model.max_position_embeddings:
        remarks.append(
            f"sliding_window = {limited.max_position_embeddings}: sequences are limited to the window, within which "
            f"attention is full (max_position_embeddings was {model.max_position_embeddings})"
        )
    return Description(architecture, limited, projection, _seq_len(path, raw, limited), remarks)


def _seq_len(path: Path, raw: dict[str, Any], model: ModelConfig) -> int | None:
    """Return the length of the windows in training, which exports of ours have."""
    seq_len = raw.get(SEQ_LEN)
    if seq_len is not None and (type(seq_len) is not int or not 0 < seq_len <= model.max_position_embeddings):
        raise CheckpointError(
            f"{path}: {SEQ_LEN} = {seq_len!r:.40}: expected a number of tokens up to max_position_embeddings = "
            f"{model.max_position_embeddings}; correct it, or remove it"
        )
    return seq_len


def _architecture(path: Path, raw: dict[str, Any]) -> str:
    named = raw.get("architectures") or [None]
    if named == [_OWN] and "projections" not in raw:
        raise CheckpointError(
            f"{path} is of a checkpoint of `lost train`; expected an export, or a folder of another library; restore "
            "the manifest.json beside it if that is missing, or else leave out --from"
        )
    if not isinstance(named, list) or len(named) != 1 or str(named[0]) not in (*SUPPORTED, _OWN):
        raise CheckpointError(
            f"{path}: architectures = {raw.get('architectures')}: not supported; expected one of {', '.join(SUPPORTED)}"
        )
    return str(named[0])


def _rope(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Return rope_theta and rope_scaling, from the fields of transformers 4 or from `rope_parameters` of 5."""
    fields: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(given := raw.get(key) or {}, dict):
            raise CheckpointError(f"{path}: {key} = {given!r}: expected an object; download the file again")
        if any(isinstance(each, dict) for each in given.values()):
            raise CheckpointError(
                f"{path}: {key} differs between kinds of layers ({', '.join(given)}): not supported; expected one for "
                "all"
            )
        fields |= given
    theta = fields.get("rope_theta", raw.get("rope_theta", 10_000.0))
    kind = fields.get("rope_type", fields.get("type", "default"))
    partial = fields.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if kind not in _ROPE_TYPES or partial != 1:
        what = f"rope_type = {kind!r}" if kind not in _ROPE_TYPES else f"partial_rotary_factor = {partial}"
        raise CheckpointError(
            f"{path}: {what}: not supported; expected rotary positions of the types {', '.join(_ROPE_TYPES)} "
            "over the whole head"
        )
    if kind == "default":
        return {"rope_theta": theta}
    scaling = {"rope_type": kind, "factor": fields.get("factor")}
    if kind == "llama3":
        # transformers falls back to the model's own length.
        scaling["original_max_position_embeddings"] = raw["max_position_embeddings"]
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        scaling |= {key: fields[key] for key in names if key in fields}
    return {"rope_theta": theta, "rope_scaling": scaling}


def _window(architecture: str, raw: dict[str, Any]) -> Any:
    """Return the width of the sliding window, if any layer uses one."""
    slides = (
        architecture == "MistralForCausalLM"
        or raw.get("use_sliding_window")
        or "sliding_attention" in str(raw.get("layer_types"))
    )
    return raw.get("sliding_window") if slides else None
