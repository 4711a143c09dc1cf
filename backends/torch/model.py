"""LLaMA with the core's projections, under Hugging Face's parameter names.

Shapes: b batch, s sequence, h hidden_size, d head_width. Names and mathematics follow transformers' LlamaForCausalLM,
against which it is tested.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lost.backends.torch import devices
from lost.backends.torch.arrays import DTYPES
from lost.backends.torch.distillation.loss import Teaching, taught_loss
from lost.backends.torch.kernels.elementwise import rms_norm, rotate, swiglu
from lost.backends.torch.kernels.loss import head_loss, head_scores
from lost.backends.torch.layers import Before, Narrow, layer, narrow
from lost.config import Config, ModelConfig
from lost.model.parameters import Parameter, gate_is_activated, layer_projections, parameter_table, vocabulary
from lost.model.rope import frequencies

M = TypeVar("M", bound=nn.Module)
_POSITIONS = 1 << 13  # that rotary tables begin with


@dataclass
class Cache:
    """What one block keeps of the tokens before.

    Attributes:
        keys: (b, key_value_heads, room, d), filled up to a position that the caller keeps.
        values: the same.
        before: what convolutions read last.
    """

    keys: Tensor
    values: Tensor
    before: Before = field(default_factory=dict)


@dataclass
class AttentionContext:
    """Positions and history of a pass: rotary tables (s, d / 2), the first token's position, keys and values so far."""

    rotary: tuple[Tensor, Tensor]
    start: int = 0
    cache: Cache | None = None

    @property
    def before(self) -> Before | None:
        """What convolutions read last."""
        return None if self.cache is None else self.cache.before


class Table(nn.Module):
    """One row of `width` entries a token: the embedding, and the head."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype))


class Norm(nn.Module):
    """RMSNorm, computed at least in float32."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., h) to (..., h)."""
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped queries."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        model = config.model
        self.heads, self.shared, self.width = model.num_attention_heads, model.key_value_heads, model.head_width
        q, k, v, o = layer_projections(config, number)[:4]
        self.q_proj, self.k_proj = layer(q, dtype), layer(k, dtype)
        self.v_proj, self.o_proj = layer(v, dtype), layer(o, dtype)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if model.use_qk_norm:
            self.q_norm, self.k_norm = (Norm(self.width, model.rms_norm_eps, dtype) for _ in "qk")

    def open(self, x: Tensor, last: bool) -> list[Narrow]:
        """Map (b, s, h) to the first halves of q, k and v."""
        return narrow((self.q_proj, self.k_proj, self.v_proj), x, last)

    def mix(self, q: Narrow, k: Narrow, v: Narrow, context: AttentionContext, last: bool) -> Narrow:
        """Map the first halves of q, k and v to that of the output."""
        queries = rotate(
            self.q_norm(self._split(self.q_proj.widen(*q, before=context.before), self.heads)), *context.rotary
        ).transpose(1, 2)
        keys = rotate(
            self.k_norm(self._split(self.k_proj.widen(*k, before=context.before), self.shared)), *context.rotary
        ).transpose(1, 2)
        values = self._split(self.v_proj.widen(*v, before=context.before), self.shared).transpose(1, 2)
        length = queries.shape[2]
        if context.cache is not None:
            end = context.start + length
            context.cache.keys[:, :, context.start : end] = keys
            context.cache.values[:, :, context.start : end] = values
            keys, values = context.cache.keys[:, :, :end], context.cache.values[:, :, :end]
        grouped = self.heads != self.shared
        if grouped and queries.dtype == torch.float32 and queries.is_cuda:
            # CUDA's fused kernel for float32 knows no groups; PyTorch would hold all scores instead, (b, heads, s, s).
            keys, values = (each.repeat_interleave(self.heads // self.shared, 1) for each in (keys, values))
            grouped = False
        y = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            is_causal=length > 1,  # a single query sees all keys
            enable_gqa=grouped,
        )
        return narrow((self.o_proj,), y.transpose(1, 2).flatten(2), last)[0]

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """Map (b, s, heads * d) to (b, s, heads, d)."""
        return x.unflatten(-1, (heads, self.width))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202), without its SiLU where the configuration drops it."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        gate, up, down = layer_projections(config, number)[4:]
        self.activated = gate_is_activated(config, gate)
        self.gate_proj, self.up_proj, self.down_proj = layer(gate, dtype), layer(up, dtype), layer(down, dtype)

    def open(self, x: Tensor, last: bool) -> list[Narrow]:
        """Map (b, s, h) to the first halves of gate and up."""
        return narrow((self.gate_proj, self.up_proj), x, last)

    def mix(self, gate: Narrow, up: Narrow, before: Before | None, last: bool) -> Narrow:
        """Map the first halves of gate and up to that of the output."""
        opened, passed = self.gate_proj.widen(*gate, before=before), self.up_proj.widen(*up, before=before)
        return narrow((self.down_proj,), swiglu(opened, passed) if self.activated else opened * passed, last)[0]


class Block(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual around it."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, eps = config.model.hidden_size, config.model.rms_norm_eps
        self.input_layernorm = Norm(hidden, eps, dtype)
        self.self_attn = Attention(config, number, dtype)
        self.post_attention_layernorm = Norm(hidden, eps, dtype)
        self.mlp = FeedForward(config, number, dtype)

    def forward(self, x: Tensor, context: AttentionContext, rebuild: bool = False) -> Tensor:
        """Map (b, s, h) to (b, s, h).

        With `rebuild`, training keeps only what passes between the steps here, x and the projections' first halves, and
        the backward pass recomputes the rest, which is wider (CoLA-M, arXiv 2502.10940, section 4.2).
        """
        run = _rebuilt if rebuild else _directly
        attention, mlp = self.self_attn, self.mlp
        halves = run(lambda x: attention.open(self.input_layernorm(x), rebuild), x)
        x = x + attention.o_proj.widen(*run(attention.mix, *halves, context, rebuild), before=context.before)
        halves = run(lambda x: mlp.open(self.post_attention_layernorm(x), rebuild), x)
        return x + mlp.down_proj.widen(*run(mlp.mix, *halves, context.before, rebuild), before=context.before)


def _directly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _rebuilt(function: Callable[..., Any], *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class Trunk(nn.Module):
    """Everything except the head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, dtype, table = config.model, DTYPES[config.train.param_dtype], parameter_table(config)
        self.dtype = DTYPES[config.train.compute_dtype]
        self.embed_tokens = _as_listed(Table(vocabulary(config), model.hidden_size, dtype), "model.embed_tokens", table)
        self.layers = nn.ModuleList(
            _as_listed(Block(config, number, dtype), f"model.layers.{number}", table)
            for number in range(model.num_hidden_layers)
        )
        self.norm = _as_listed(Norm(model.hidden_size, model.rms_norm_eps, dtype), "model.norm", table)
        self.checkpointing = config.train.checkpoint_activations
        size = (min(max(_POSITIONS, config.data.seq_len), model.max_position_embeddings), model.head_width // 2)
        self.register_buffer("cos", torch.empty(size), persistent=False)
        self.register_buffer("sin", torch.empty(size), persistent=False)
        self.fill_rotary_tables(config)

    def fill_rotary_tables(self, config: Config) -> None:
        """Compute the tables, of the first positions; a model made on the meta device has none."""
        self._model = config.model
        cos, sin = rotary_tables(config.model, len(self.cos))
        self.cos.copy_(cos)
        self.sin.copy_(sin)

    def _lengthen_tables(self, positions: int) -> None:
        """Compute the tables for more positions, and for as many again: a model may allow more than a memory holds."""
        count = max(positions, min(2 * positions, self._model.max_position_embeddings))
        tables = rotary_tables(self._model, count)
        self.cos, self.sin = (table.to(self.cos.device, self.cos.dtype) for table in tables)

    def forward(
        self,
        tokens: Tensor,
        caches: list[Cache] | None = None,
        start: int = 0,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        """Map tokens (b, s) to normed states (b, s, h); `outputs` is given the states after each block."""
        x = F.embedding(tokens, self.embed_tokens.weight).to(self.dtype)
        positions = slice(start, start + tokens.shape[1])
        if positions.stop > len(self.cos):
            self._lengthen_tables(positions.stop)
        rotary = self.cos[positions].to(self.dtype), self.sin[positions].to(self.dtype)
        training = torch.is_grad_enabled()
        for number, block in enumerate(self.layers):
            context = AttentionContext(rotary, start, caches[number] if caches else None)
            if self.checkpointing == "full" and training:
                x = _rebuilt(block, x, context)
            else:
                x = block(x, context, self.checkpointing == "narrow" and training)
            if outputs is not None:
                outputs.append(x)
        return self.norm(x)


class LostForCausalLM(nn.Module):
    """The trunk as `model`, the head as `lm_head` unless it is tied to the embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.z_loss, self.teacher, self.compiled = config.train.z_loss, config.teacher, False
        self.model = Trunk(config)
        if not config.model.tie_word_embeddings:
            head = Table(vocabulary(config), config.model.hidden_size, DTYPES[config.train.param_dtype])
            self.lm_head = _as_listed(head, "lm_head", parameter_table(config))

    def compile_training(self) -> None:
        """Compile each block for itself, and on CUDA the loss, as soon as they run, for the shapes that they are given.

        Blocks of equal shapes share what is compiled. The whole trunk in one piece takes many times as long to trace.
        Code for any size of micro-batch, which a second size would bring about, would be slower for all of them.
        """
        import torch._dynamo.config as dynamo  # here: it takes as long as the rest of PyTorch

        devices.name_compiled_code()
        self.compiled, blocks = True, self.model.layers
        dynamo.recompile_limit += 8 * len(blocks)  # its default, for each: all may differ, also from other models'
        for block in blocks:
            block.compile(dynamic=False)

    @property
    def head(self) -> Tensor:
        """The head's weight, (vocab, h)."""
        return self.lm_head.weight if hasattr(self, "lm_head") else self.model.embed_tokens.weight

    def forward(
        self, tokens: Tensor, targets: Tensor, likeliest: bool = True, teaching: Teaching | None = None
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Map tokens (b, s) and targets (b * s,) to the summed negative log-likelihood; without gradients, to scores.

        With what a teacher predicts, to `taught_loss`; the scores are `head_scores`. Training and evaluation all go
        through here, where sharded weights are gathered, as they are for `logits`.
        """
        states = self.model(tokens).flatten(0, 1)
        if torch.is_grad_enabled():
            fused = self.compiled and states.is_cuda  # on a CPU that is slower
            if teaching is not None:
                return taught_loss(states, self.head, targets, teaching, self.teacher, self.z_loss, fused)
            return head_loss(states, self.head, targets, self.z_loss, fused)
        return head_scores(states, self.head, targets, likeliest)

    def logits(self, tokens: Tensor, caches: list[Cache] | None = None, start: int = 0) -> Tensor:
        """Return (b, s, vocab) for tokens (b, s): for tests and generation; training never holds all of them."""
        x = self.model(tokens, caches, start)
        return F.linear(x, self.head.to(x.dtype))


def _as_listed(module: M, name: str, table: Mapping[str, Parameter]) -> M:
    """Give the parameters of a module the types that the table says, and gradients to those that are trained."""
    for suffix, parameter in module.named_parameters():
        row = table[f"{name}.{suffix}"]
        parameter.requires_grad_(row.trained)
        parameter.data = parameter.data.to(DTYPES[row.dtype])
    return module


def rotary_tables(model: ModelConfig, positions: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin, (positions, d / 2) float64."""
    angles = np.arange(positions)[:, None] * frequencies(model)
    return torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))
