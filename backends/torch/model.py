"""LLaMA with the core's projections, under Hugging Face's parameter names.

Shapes: b batch, s sequence, h hidden_size, d head_dim. Names and mathematics follow transformers' LlamaForCausalLM,
against which it is tested.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lost.backends.torch.arrays import DTYPES
from lost.backends.torch.layers import layer
from lost.config import Config
from lost.parameters import gate_is_activated, layer_projections, vocabulary


@dataclass
class Cache:
    """Keys and values of one layer: (b, key_value_heads, room, d), filled up to a position that the caller keeps."""

    keys: Tensor
    values: Tensor


class Table(nn.Module):
    """One row of `width` entries a token: the embedding, and the head."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype))


class Norm(nn.Module):
    """RMSNorm, computed in float32 where x is coarser."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., h) to (..., h)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.weight.shape, self.weight.to(wide), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped queries."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        model = config.model
        self.heads, self.shared, self.width = model.num_attention_heads, model.key_value_heads, model.head_dim
        q, k, v, o = layer_projections(config, number)[:4]
        self.q_proj, self.k_proj = layer(q, dtype), layer(k, dtype)
        self.v_proj, self.o_proj = layer(v, dtype), layer(o, dtype)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None, start: int) -> Tensor:
        """Map (b, s, h) to (b, s, h); with a cache, x stands at positions start to start + s."""
        batch, length = x.shape[:2]
        q = self.q_proj(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.shared, self.width).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.shared, self.width).transpose(1, 2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            cache.keys[:, :, start : start + length] = k
            cache.values[:, :, start : start + length] = v
            k, v = cache.keys[:, :, : start + length], cache.values[:, :, : start + length]
        causal = length > 1  # a single query sees all that is there
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=self.heads != self.shared)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202), its SiLU dropped where the recipe says so."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        gate, up, down = layer_projections(config, number)[4:]
        self.activated = gate_is_activated(config, gate)
        self.gate_proj, self.up_proj, self.down_proj = layer(gate, dtype), layer(up, dtype), layer(down, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, h) to (b, s, h)."""
        gate = self.gate_proj(x)
        return self.down_proj((F.silu(gate) if self.activated else gate) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each normed before and added after."""

    def __init__(self, config: Config, number: int, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, eps = config.model.hidden_size, config.model.rms_norm_eps
        self.input_layernorm = Norm(hidden, eps, dtype)
        self.self_attn = Attention(config, number, dtype)
        self.post_attention_layernorm = Norm(hidden, eps, dtype)
        self.mlp = FeedForward(config, number, dtype)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None, start: int) -> Tensor:
        """Map (b, s, h) to (b, s, h)."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache, start)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything but the head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, dtype = config.model, DTYPES[config.train.param_dtype]
        self.dtype = DTYPES[config.train.dtype]
        self.embed_tokens = Table(vocabulary(config), model.hidden_size, dtype)
        self.layers = nn.ModuleList(Block(config, number, dtype) for number in range(model.num_hidden_layers))
        self.norm = Norm(model.hidden_size, model.rms_norm_eps, dtype)
        cos, sin = rotary_tables(model.max_position_embeddings, model.head_dim, model.rope_theta)
        self.checkpointed = False  # whether training keeps only each block's input and computes the rest again
        self.register_buffer("cos", cos.float(), persistent=False)
        self.register_buffer("sin", sin.float(), persistent=False)

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None, start: int = 0) -> Tensor:
        """Map tokens (b, s) to normed states (b, s, h)."""
        x = F.embedding(tokens, self.embed_tokens.weight).to(self.dtype)
        positions = slice(start, start + tokens.shape[1])
        rotary = self.cos[positions].to(self.dtype), self.sin[positions].to(self.dtype)
        for number, block in enumerate(self.layers):
            if self.checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, x, rotary, None, 0, use_reentrant=False)
            else:
                x = block(x, rotary, caches[number] if caches else None, start)
        return self.norm(x)


class LostForCausalLM(nn.Module):
    """The trunk as `model`, the head as `lm_head` unless it is tied to the embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = Trunk(config)
        if not config.model.tie_word_embeddings:
            self.lm_head = Table(vocabulary(config), config.model.hidden_size, DTYPES[config.train.param_dtype])

    @property
    def head(self) -> Tensor:
        """The head's weight, (vocab, h)."""
        return self.lm_head.weight if hasattr(self, "lm_head") else self.model.embed_tokens.weight

    def logits(self, tokens: Tensor, caches: list[Cache] | None = None, start: int = 0) -> Tensor:
        """Return (b, s, vocab) for tokens (b, s): for tests and generation; training never holds them all."""
        x = self.model(tokens, caches, start)
        return F.linear(x, self.head.to(x.dtype))


def rotary_tables(positions: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, (positions, d / 2) float64."""
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    angles = np.arange(positions)[:, None] * frequencies
    return torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (b, heads, s, d) by position, the two halves of d being the pairs (Hugging Face's convention)."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
