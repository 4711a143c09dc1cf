"""The table of a model's parameters: Hugging Face's names, shapes, whether each is trained and decays."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, cast

from lost.config import DTYPE_BYTES, Config, ModelConfig, ProjectionConfig
from lost.errors import ConfigError
from lost.projections import KINDS, Projection, Tensor, projection
from lost.projections.adapters import Adapter

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"


@dataclass(frozen=True)
class Parameter:
    """One named array of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    below: int = 0
    """The limit of its indices, if it holds any: as in `Tensor`."""
    parts: tuple[int, ...] = ()
    """Widths of its groups of columns, if they differ in meaning: as in `Tensor`."""
    widening: float = 1.0
    """How many times as many inputs it adds up as in the model that `optimizer.base_width` means."""
    frozen: bool = field(default=False, compare=False)
    """Whether it stays as it was when training began."""
    bits: int = 0
    """Of its numbers, if each int32 holds several: as in `Tensor`."""
    dtype: str = field(default="float32", compare=False)
    """Type that it is stored in: float32, bfloat16 or int32."""

    @property
    def integer(self) -> bool:
        """Whether it is int32: it holds indices, or numbers of few bits."""
        return self.below > 0 or self.bits > 0

    @property
    def trained(self) -> bool:
        """Whether it has gradients and moments."""
        return not (self.integer or self.frozen)

    @property
    def decays(self) -> bool:
        """Whether weight decay applies to it: to matrices only."""
        return self.trained and len(self.shape) > 1

    @property
    def size(self) -> int:
        """Number of entries."""
        size = 1
        for width in self.shape:
            size *= width
        return size

    @property
    def bytes(self) -> int:
        """Bytes that it takes as it is stored."""
        return self.size * DTYPE_BYTES.get(self.dtype, 4)  # int32


class Architecture(Protocol):
    """The description of a model: a `Config`, or the two sections of one in a checkpoint's config.json."""

    @property
    def model(self) -> ModelConfig:
        """The host model."""

    @property
    def projection(self) -> ProjectionConfig:
        """How its projections are stored."""


@dataclass(frozen=True)
class _Known:
    """An architecture, equal to those with the same parameters: a plan, which tries many sizes, asks again and again.

    Attributes:
        said: all that parameters depend on.
        config: it.
    """

    said: tuple[object, ...]
    config: Architecture = field(compare=False)

    @classmethod
    def of(cls, config: Architecture, *more: object) -> "_Known":
        return cls((config.model.model_dump_json(), config.projection.model_dump_json(), *KINDS.items(), *more), config)


def layer_projections(config: Architecture, layer: int) -> list[Projection]:
    """Return the seven projections of one block, in the order of a forward pass."""
    return [*_blocks(_Known.of(config))[layer]]


@lru_cache(maxsize=8)
def _blocks(known: _Known) -> list[list[Projection]]:
    return [_block(known.config, layer) for layer in range(known.config.model.num_hidden_layers)]


def _block(config: Architecture, layer: int) -> list[Projection]:
    model = config.model
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    reads_bias, o_bias = bool(model.attention_bias), model.attention_bias is True
    shapes = {
        "self_attn.q_proj": (hidden, queries, reads_bias),
        "self_attn.k_proj": (hidden, shared, reads_bias),
        "self_attn.v_proj": (hidden, shared, reads_bias),
        "self_attn.o_proj": (queries, hidden, o_bias),
        "mlp.gate_proj": (hidden, inner, model.mlp_bias),
        "mlp.up_proj": (hidden, inner, model.mlp_bias),
        "mlp.down_proj": (inner, hidden, model.mlp_bias),
    }
    return [
        projection(name, fan_in, fan_out, config.projection.settings_for(name), bias)
        for name, (fan_in, fan_out, bias) in ((f"model.layers.{layer}.{part}", shape) for part, shape in shapes.items())
    ]


def projections(config: Config) -> list[Projection]:
    """Return every projection of the model.

    Raises:
        ConfigError: a rank larger than its matrix, or an override that matches no projection.
    """
    layers = [each for block in _blocks(_Known.of(config)) for each in block]
    for pattern in config.projection.overrides:
        if not any(fnmatch.fnmatchcase(each.name, pattern) for each in layers):
            raise ConfigError(
                f"projection.overrides has {pattern!r}, which matches no projection; expected a pattern for names such "
                f"as {layers[0].name}"
            )
    return layers


def gate_is_activated(config: Architecture, gate: Projection) -> bool:
    """Whether SwiGLU's own SiLU acts: unless the gate projection has an activation and the configuration drops it."""
    return config.projection.keep_gate_activation or not gate.has_activation


def vocabulary(config: Architecture) -> int:
    """Return the vocabulary's size.

    Raises:
        ConfigError: it is taken from the data, and there is none yet.
    """
    if config.model.vocab_size is None:
        raise ConfigError(
            "model.vocab_size = None: it is taken from the prepared data, and there is none here; "
            "name the data with --data, or set it with --set model.vocab_size=32000"
        )
    return config.model.vocab_size


def parameter_table(config: Config) -> dict[str, Parameter]:
    """Return every parameter by name, in the order of a forward pass."""
    more = (config.train.param_dtype, config.train.frozen_dtype, config.optimizer.base_width)
    return dict(_table(_Known.of(config, *more)))


@lru_cache(maxsize=8)
def _table(known: _Known) -> Mapping[str, Parameter]:
    config = cast(Config, known.config)
    hidden, wider = config.model.hidden_size, widening(config)
    tied = config.model.tie_word_embeddings
    rows = [Parameter(EMBEDDING, (vocabulary(config), hidden), widening=wider if tied else 1.0)]
    adapters: set[str] = set()
    for layer in range(config.model.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        attention: list[Parameter] = []
        mlp: list[Parameter] = []
        for each in layer_projections(config, layer):
            target = mlp if ".mlp." in each.name else attention
            own = [_parameter(each.name, suffix, tensor, wider) for suffix, tensor in each.tensors().items()]
            target.extend(own)
            if isinstance(each, Adapter):
                adapters.update(row.name for row in own if row.trained and not row.name.endswith(".bias"))
        if config.model.use_qk_norm:
            width = (config.model.head_width,)
            attention += [Parameter(f"{prefix}.self_attn.{part}_norm.weight", width) for part in ("q", "k")]
        rows += [Parameter(f"{prefix}.input_layernorm.weight", (hidden,)), *attention]
        rows += [Parameter(f"{prefix}.post_attention_layernorm.weight", (hidden,)), *mlp]
    rows.append(Parameter(FINAL_NORM, (hidden,)))
    if not tied:
        rows.append(Parameter(HEAD, (vocabulary(config), hidden), widening=wider))
    rest = not adapters or config.projection.train_rest
    return {row.name: _kept(row, config, rest or row.name in adapters) for row in rows}


def _kept(row: Parameter, config: Config, trains: bool) -> Parameter:
    """Return a row that says whether it is frozen, and what it is stored in."""
    train, frozen = config.train, row.frozen or not (trains or row.integer)
    kept = (train.frozen_dtype if frozen else None) or train.param_dtype
    return replace(row, frozen=frozen, dtype="int32" if row.integer else kept)


def widening(config: Config) -> float:
    """Return how many times as wide the model is as the one that `optimizer.base_width` means; 1: it means none.

    That one is taken to be this model with every width as much smaller: the MLP, heads by their number, and the rank,
    and sltrain's alpha with it. So all matrices add up so many times as many inputs, and `up` as many as `down`: those
    of `down` are the layer's own, those of `up` the rank and the kept channels, a share of the width. (Beside a rank
    that stays as it is, the inputs of a low-rank `up` would be as many as before, and its rate would have to stay too.)
    The embedding adds up nothing, it is looked up; where it is the head too, it adds up as the head does.
    """
    base = config.optimizer.base_width
    return config.model.hidden_size / base if base else 1.0


def _parameter(name: str, suffix: str, tensor: Tensor, wider: float) -> Parameter:
    is_matrix = len(tensor.shape) > 1 or tensor.of_matrix
    widening = wider if is_matrix else 1.0
    return Parameter(f"{name}.{suffix}", tensor.shape, tensor.below, tensor.parts, widening, tensor.frozen, tensor.bits)


def shapes_of(table: Mapping[str, Parameter]) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape, by name."""
    return {name: row.shape for name, row in table.items()}


def index_limits(table: Mapping[str, Parameter]) -> dict[str, int]:
    """Return the limit of indices of each int32 parameter, by name; 0: its numbers are no indices."""
    return {name: row.below for name, row in table.items() if row.integer}
