"""LLaMA with the core's projections, in mlx-lm's idiom: `Model`, `layers`, caches.

Shapes: b batch, s sequence, h hidden_size, d head_width. Names and mathematics follow mlx-lm's llama, against which it
is tested; its caches (`mlx_lm.models.cache`) serve here too.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from lost.backends.mlx.kernels import gated, group, metal
from lost.backends.mlx.kernels.checkpointing import directly, rebuilt, recomputed, trained
from lost.backends.mlx.kernels.gather import embedded
from lost.backends.mlx.layers import Group, Narrow, closes, layer, opens
from lost.backends.mlx.optim.stacks import Names, Stacks, view
from lost.config import ModelConfig
from lost.model.parameters import Architecture, gate_is_activated, layer_projections, vocabulary
from lost.model.rope import frequencies


class Table(nn.Module):
    """One row of `width` entries a token: the embedding, and the head."""

    def __init__(self, rows: int, width: int, dtype: mx.Dtype) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width), dtype)


class Norm(nn.Module):
    """RMSNorm, its sums in float32."""

    def __init__(self, width: int, eps: float, dtype: mx.Dtype) -> None:
        super().__init__()
        self.weight = mx.ones(width, dtype)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., h) to (..., h)."""
        if self.weight.dtype == x.dtype:
            return mx.fast.rms_norm(x, self.weight, self.eps)
        # A float32 weight is never rounded: near 1, where it stays, bfloat16 has steps that updates don't reach.
        return (mx.fast.rms_norm(x, None, self.eps) * self.weight).astype(x.dtype)


class Rotary:
    """Rotary positions, the two halves of d being the pairs (Hugging Face's convention). Not a module: it has no state.

    MLX's kernel computes plain frequencies itself; scaled ones are passed to it, as positions per radian.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._scaled = mx.array((1 / frequencies(model)).astype(np.float32)) if model.rope_scaling else None
        self._width, self._base = model.head_width, None if model.rope_scaling else model.rope_theta

    def __call__(self, x: mx.array, start: int) -> mx.array:
        """Rotate (b, heads, s, d), the first position of which is `start`."""
        return mx.fast.rope(
            x, self._width, traditional=False, base=self._base, scale=1.0, offset=start, freqs=self._scaled
        )


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped queries."""

    def __init__(self, config: Architecture, number: int, dtype: mx.Dtype) -> None:
        super().__init__()
        model = config.model
        self.heads, self.shared, self.width = model.num_attention_heads, model.key_value_heads, model.head_width
        self.rotary = Rotary(model)
        q, k, v, o = layer_projections(config, number)[:4]
        self.q_proj, self.k_proj = layer(q, dtype), layer(k, dtype)
        self.v_proj, self.o_proj = layer(v, dtype), layer(o, dtype)
        self.groups = (Group(self.q_proj, self.k_proj, self.v_proj), Group(self.o_proj))
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if model.use_qk_norm:
            self.q_norm, self.k_norm = (Norm(self.width, model.rms_norm_eps, dtype) for _ in "qk")

    def open(self, x: mx.array, whole: bool) -> list[Narrow]:
        """Map (b, s, h) to the first halves of q, k and v."""
        return self.groups[0].narrow(x, whole)

    def mix(self, q: Narrow, k: Narrow, v: Narrow, mask: mx.array | str | None, cache: Any, before: Any) -> Narrow:
        """Map the first halves of q, k and v to that of the output.

        A cache holds and takes keys and values, and `before` what convolutions read last.
        """
        queries = self._split(self.q_proj.widen(*q, before=before), self.heads)
        keys = self._split(self.k_proj.widen(*k, before=before), self.shared)
        values = self._split(self.v_proj.widen(*v, before=before), self.shared)
        start = cache.offset if cache is not None else 0
        queries, keys = self.rotary(self.q_norm(queries), start), self.rotary(self.k_norm(keys), start)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        y = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.width**-0.5, mask=mask)
        return self.groups[1].narrow(y.transpose(0, 2, 1, 3).flatten(2), before is None)[0]

    def _split(self, x: mx.array, heads: int) -> mx.array:
        """Map (b, s, heads * d) to (b, heads, s, d)."""
        return x.reshape(*x.shape[:2], heads, self.width).transpose(0, 2, 1, 3)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202), without its SiLU where the configuration drops it."""

    def __init__(self, config: Architecture, number: int, dtype: mx.Dtype) -> None:
        super().__init__()
        gate, up, down = layer_projections(config, number)[4:]
        self.activated = gate_is_activated(config, gate)
        self.gate_proj, self.up_proj, self.down_proj = layer(gate, dtype), layer(up, dtype), layer(down, dtype)
        self.groups = (Group(self.gate_proj, self.up_proj, stacks=True), Group(self.down_proj))

    def open(self, x: mx.array, whole: bool) -> list[Narrow]:
        """Map (b, s, h) to the first halves of gate and up; to both outputs as one, and nothing, if a step has so."""
        both = self.groups[0].stacked(x) if whole else None
        return self.groups[0].narrow(x, whole) if both is None else [(both,), ()]

    def mix(self, gate: Narrow, up: Narrow, before: Any) -> Narrow:
        """Map the first halves of gate and up to that of the output."""
        if not up:
            return self.groups[1].narrow(gated.product(gate[0], self.activated), before is None)[0]
        product = _gated if self.activated else mx.multiply
        opened, passed = self.gate_proj.widen(*gate, before=before), self.up_proj.widen(*up, before=before)
        return self.groups[1].narrow(product(opened, passed), before is None)[0]


@recomputed
def _gated(gate: mx.array, x: mx.array) -> mx.array:
    return nn.silu(gate) * x


class Block(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual around it."""

    def __init__(self, config: Architecture, number: int, dtype: mx.Dtype) -> None:
        super().__init__()
        hidden, eps = config.model.hidden_size, config.model.rms_norm_eps
        self.input_layernorm = Norm(hidden, eps, dtype)
        self.self_attn = Attention(config, number, dtype)
        self.post_attention_layernorm = Norm(hidden, eps, dtype)
        self.mlp = FeedForward(config, number, dtype)
        attention, mlp = self.self_attn, self.mlp
        layers = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        layers += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        convolved = [each for each in layers if each.earlier]
        for place, each in enumerate(convolved):
            each.place = place
        self.convolutions = len(convolved)  # places in a cache

    def __call__(
        self, x: mx.array, mask: mx.array | str | None = None, cache: Any = None, rebuild: bool = False
    ) -> mx.array:
        """Map (b, s, h) to (b, s, h).

        With `rebuild`, training keeps only what passes between the steps here, x and the projections' first halves, and
        the backward pass recomputes the rest, which is wider (CoLA-M, arXiv 2502.10940, section 4.2).
        """
        run = rebuilt if rebuild else directly
        attention, mlp = self.self_attn, self.mlp
        q, k, v, o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        first, second = self.input_layernorm, self.post_attention_layernorm
        norms = [attention.q_norm, attention.k_norm]
        keys, before = (cache[0], cache[1]) if self.convolutions and cache is not None else (cache, None)
        whole = before is None
        halves = run([*trained(first), *opens(q, k, v)], lambda x: attention.open(first(x), whole), x)
        mixed = run([*closes(q, k, v), *trained(*norms), *opens(o)], attention.mix, *halves, mask, keys, before)
        x = x + o.widen(*mixed, before=before)
        halves = run([*trained(second), *opens(gate, up)], lambda x: mlp.open(second(x), whole), x)
        x = x + down.widen(*run([*closes(gate, up), *opens(down)], mlp.mix, *halves, before), before=before)
        if before is not None:
            before.advance(x.shape[1])
        return x


class Trunk(nn.Module):
    """Everything except the head."""

    def __init__(self, config: Architecture, dtype: mx.Dtype, param_dtype: mx.Dtype) -> None:
        super().__init__()
        model = config.model
        self.dtype = dtype
        self.embed_tokens = Table(vocabulary(config), model.hidden_size, param_dtype)
        self.layers = [Block(config, number, param_dtype) for number in range(model.num_hidden_layers)]
        self.norm = Norm(model.hidden_size, model.rms_norm_eps, param_dtype)
        self.keep("none")

    def keep(self, policy: str) -> None:
        """Choose what is kept for the backward pass, as `train.checkpoint_activations` names it.

        Between narrow halves nothing is fused: what is kept there is to be narrow.
        """
        self.checkpointing = policy
        fused = policy != "narrow" and group.works(self.dtype)
        for _, each in self.groups():
            each.fuse(fused)

    def groups(self) -> Iterator[tuple[list[str], Group]]:
        """Yield the groups of layers that read the same, and the layers' names."""
        for number, block in enumerate(self.layers):
            for part, names in (("self_attn", ("qkv", "o")), ("mlp", (("gate", "up"), ("down",)))):
                for some, each in zip(names, block[part].groups, strict=True):
                    yield [f"model.layers.{number}.{part}.{name}_proj" for name in some], each

    def __call__(
        self, inputs: mx.array, cache: Sequence[Any] | None = None, outputs: list[mx.array] | None = None
    ) -> mx.array:
        """Map tokens (b, s) to normed states (b, s, h); `outputs` is given the states after each block."""
        # Looked up before the cast, so that gradients of frequent tokens accumulate in the weights' type.
        x = embedded(self.embed_tokens.weight, inputs).astype(self.dtype)
        length = inputs.shape[1]
        mask = "causal" if length > 1 else None  # a single query sees all keys
        if cache:
            keys = cache[0][0] if self.layers[0].convolutions else cache[0]
            mask = keys.make_mask(length, return_array=False, window_size=None)
        for number, block in enumerate(self.layers):
            if self.checkpointing == "full" and not cache:
                x = nn.utils.checkpoint(block)(x, mask)
            else:
                x = block(x, mask, cache[number] if cache else None, self.checkpointing == "narrow" and not cache)
            if outputs is not None:
                outputs.append(x)
        return self.norm(x)


def _of(names: Sequence[str], suffix: str) -> Names:
    return tuple(f"{name}.{suffix}" for name in names)


class Model(nn.Module):
    """The trunk as `model`, the head as `lm_head` unless it is tied to the embedding.

    Args:
        args: a `Config`, or what else has its sections `model` and `projection`.
        dtype: of computation.
        param_dtype: of the weights.
    """

    def __init__(self, args: Architecture, dtype: mx.Dtype = mx.float32, param_dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        self.args, self.model_type = args, "lost"
        self.model = Trunk(args, dtype, param_dtype)
        if not args.model.tie_word_embeddings:
            self.lm_head = Table(vocabulary(args), args.model.hidden_size, param_dtype)

    @property
    def head_owner(self) -> Table:
        """What holds the head's weight."""
        return self.lm_head if "lm_head" in self else self.model.embed_tokens

    @property
    def head(self) -> mx.array:
        """The head's weight, (vocab, h)."""
        return self.head_owner.weight

    def hold(self, names: Iterable[str]) -> None:
        """Give no gradients to some of the parameters."""
        modules = dict(self.named_modules())
        for name in names:
            owner, _, suffix = name.rpartition(".")
            modules[owner].freeze(keys=[suffix], recurse=False)

    def together(self) -> list[Names]:
        """Return tensors that a step reads as one array: they have gradients as one, too."""
        if self.model.checkpointing != "none":  # what is computed anew must be a module's own
            return []
        return [
            _of(names, suffix)
            for names, each in self.model.groups()
            for suffix in each.suffixes
            if each.fused and len(names) > 1 and suffix in each.layers[0]
        ]

    def in_summands(self, parts: Stacks, tokens: int) -> Stacks:
        """Return parts with the taps of convolutions as kernels want them: their gradients are summed in an update.

        All of a stack's are, or none.
        """
        if self.model.checkpointing != "none":
            return parts
        groups = [(_of(names, "conv"), each) for names, each in self.model.groups() if each.layers[0].earlier]
        if not all(each.fused and names in parts for names, each in groups):
            return parts
        spread = {names for names, _ in groups}
        count = metal.tap_parts(tokens)
        return {
            names: mx.broadcast_to(part.reshape(len(names), -1), (count, len(names), part.size // len(names)))
            if names in spread
            else part
            for names, part in parts.items()
        }

    def take(self, parts: Stacks, stacks: Stacks) -> None:
        """Compute with these, until `release`.

        Args:
            parts: tensors, alone or several of `together` (n, *shape).
            stacks: all of them, of which those are views: here are no gradients.
        """
        rest = dict(parts)
        for names, each in self.model.groups() if self.model.checkpointing == "none" else ():
            if each.fused:
                wanted = {suffix: _of(names, suffix) for suffix in each.suffixes}
                each.given = {suffix: rest.pop(some) for suffix, some in wanted.items() if some in rest}
                ups = view(stacks, _of(names, "up")) if len(names) > 1 and not each.stacks else None
                each.given |= {} if ups is None else {"ups": ups}
        self.update(tree_unflatten([(name, part) for (name,), part in rest.items()]))

    def release(self) -> None:
        """Forget what `take` was given but for single tensors."""
        for _, each in self.model.groups():
            each.given = {}

    @property
    def layers(self) -> list[Block]:
        """The blocks, one cache each."""
        return self.model.layers

    def make_cache(self) -> list[Any]:
        """Return mlx-lm's caches: a block's keys and values, and what its convolutions read last."""
        from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

        return [
            CacheList(KVCache(), ArraysCache(each.convolutions)) if each.convolutions else KVCache()
            for each in self.layers
        ]

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Return logits (b, s, vocab) for tokens (b, s): for tests and generation; training never holds all of them."""
        x = self.model(inputs, cache)
        return x @ self.head.astype(x.dtype).T
