"""mlx-lm's llama with its linear layers stored as config.json's `projections` says (made by lost-pretrain).

Everything but the linear layers is mlx-lm's own. The two thin matrices of each are `nn.Linear`, so that they quantize.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

ACTIVATIONS = {"silu": nn.silu, "gelu": nn.gelu, "relu2": nn.relu2, "none": lambda x: x}
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass
class ModelArgs(llama.ModelArgs):
    """Llama's arguments, and how each linear layer is stored: by `layers.3.mlp.up_proj`, or `mlp.up_proj` for all."""

    projections: dict = field(default_factory=dict)

    def stored(self, layer: int, part: str) -> dict:
        """Return how one linear layer is stored."""
        return self.projections.get(f"layers.{layer}.{part}") or self.projections[part]


def times(x: mx.array, factor: mx.array | float) -> mx.array:
    """Return x * factor, multiplied in float32: in bfloat16 the factor would be rounded before."""
    return (x.astype(mx.float32) * factor).astype(x.dtype)


class Pass:
    """What convolutions know of the pass under way: a cache a block, with a place for each."""

    def __init__(self) -> None:
        self.caches = []


class Layer(nn.Module):
    """What stands in the place of a matrix; a bias is added to what comes out, whatever the kind.

    On the bottleneck there may be a causal depthwise convolution, whose tap for the token itself is 1.
    """

    def __init__(self, outputs: int, stored: dict) -> None:
        super().__init__()
        self.earlier, self.now, self.block, self.place = stored.get("earlier_tokens", 0), None, 0, 0
        if self.earlier:
            self.conv = mx.zeros(self.earlier * stored["rank"])
        if stored.get("bias"):
            self.bias = mx.zeros(outputs)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., inputs) to (..., outputs)."""
        y = self.apply_weights(x)
        return y + self.bias if "bias" in self else y

    def convolved(self, hidden: mx.array) -> mx.array:
        """Map (b, s, rank) to (b, s, rank)."""
        if not self.earlier:
            return hidden
        count, length, before = self.earlier, hidden.shape[1], None
        cache = self.now.caches[self.block] if self.now.caches else None
        if cache is not None:
            if (present := cache.make_mask(length)) is not None:  # of a batch, texts begin at different places
                hidden = mx.where(present[..., None], hidden, 0)
            before = cache[self.place]
        if before is None:
            before = mx.zeros((len(hidden), count, hidden.shape[-1]), hidden.dtype)
        joined = mx.concatenate([before, hidden], axis=1)
        if cache is not None and cache.lengths is not None:  # and end at different ones
            ends = mx.clip(cache.lengths, 0, length)
            cache[self.place] = mx.take_along_axis(joined, (ends[:, None] + mx.arange(count))[..., None], axis=1)
        elif cache is not None:
            cache[self.place] = joined[:, -count:]
        taps = self.conv.reshape(count, -1)
        return hidden + sum(taps[n - 1] * joined[:, count - n : count - n + length] for n in range(1, count + 1))


class LowRank(Layer):
    """y = up act(down x)."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        self.down = nn.Linear(inputs, stored["rank"], bias=False)
        self.up = nn.Linear(stored["rank"], outputs, bias=False)
        self.activation = stored["activation"]

    def apply_weights(self, x: mx.array) -> mx.array:
        """Map (..., inputs) to (..., outputs)."""
        return self.up(ACTIVATIONS[self.activation](self.convolved(self.down(x))))


class SlTrain(Layer):
    """y = (scale up down + S) x, S zero but for `values` at the row-major places `indices`."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        self.shape, self.scale = (outputs, inputs), stored["scale"]
        self.down = nn.Linear(inputs, stored["rank"], bias=False)
        self.up = nn.Linear(stored["rank"], outputs, bias=False)
        self["values"] = mx.zeros(stored["entries"])  # a module is a dict, which has a method of this name
        self.indices = mx.zeros(stored["entries"], mx.int32)
        self.freeze(recurse=False, keys=["indices"])

    def apply_weights(self, x: mx.array) -> mx.array:
        """Map (..., inputs) to (..., outputs)."""
        values = self["values"]
        sparse = mx.zeros(self.shape[0] * self.shape[1], values.dtype).at[self.indices].add(values)
        return times(self.up(self.down(x)), self.scale) + x @ sparse.reshape(self.shape).T


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere (arXiv 2508.02668)."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        rank, kept = stored["rank"], stored["channels"]
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank + kept, outputs, bias=False)
        self.channels = mx.zeros(kept, mx.int32)
        self.freeze(recurse=False, keys=["channels"])
        self.gamma = mx.zeros(1) if stored["gamma"] is None else stored["gamma"]
        self.activation, self.activation_at = stored["activation"], stored["activation_at"]

    def apply_weights(self, x: mx.array) -> mx.array:
        """Map (..., inputs) to (..., outputs)."""
        act = ACTIVATIONS[self.activation]
        hidden = self.convolved(self.down(x))
        kept = mx.take_along_axis(x, mx.broadcast_to(self.channels, (*x.shape[:-1], self.channels.size)), axis=-1)
        if self.activation_at != "output":
            hidden = act(hidden)
        if self.activation_at == "inner":
            kept = act(kept)
        y = self.up(mx.concatenate([times(hidden, self.gamma), times(kept, 1 - self.gamma)], axis=-1))
        return act(y) if self.activation_at == "output" else y


class Normed(nn.Module):
    """A projection to queries or keys, each head normed before it is rotated (as in Qwen3)."""

    def __init__(self, linear: nn.Module, width: int, eps: float) -> None:
        super().__init__()
        self.linear, self.norm, self.width = linear, nn.RMSNorm(width, eps), width

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., inputs) to (..., heads * width)."""
        return self.norm(self.linear(x).reshape(*x.shape[:-1], -1, self.width)).flatten(-2)


KINDS = {"lowrank": LowRank, "sltrain": SlTrain, "lost": Lost}


def layer(inputs: int, outputs: int, stored: dict, eps: float) -> nn.Module:
    """Return an empty layer."""
    if stored["kind"] == "dense":
        made: nn.Module = nn.Linear(inputs, outputs, bias=stored.get("bias", False))
    else:
        made = KINDS[stored["kind"]](inputs, outputs, stored)
    return Normed(made, stored["norm"], eps) if "norm" in stored else made


class Ungated(llama.MLP):
    """Llama's feed-forward without the SiLU of its gate."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., hidden) to (..., hidden)."""
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))


class Model(llama.Model):
    """The trunk as `model`, the head as `lm_head` unless it is tied to the embedding."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.now, places = Pass(), [0] * len(self.layers)
        for number, block in enumerate(self.model.layers):
            if not args.stored(number, "mlp.gate_proj")["gate_activation"]:
                block.mlp = Ungated(args)
            for parent, names in (("self_attn", ATTENTION), ("mlp", MLP)):
                for name in names:
                    outputs, inputs = block[parent][name].weight.shape
                    stored = args.stored(number, f"{parent}.{name}")
                    made = block[parent][name] = layer(inputs, outputs, stored, args.rms_norm_eps)
                    inner = made.linear if isinstance(made, Normed) else made
                    if stored.get("earlier_tokens"):
                        inner.now, inner.block, inner.place = self.now, number, places[number]
                        places[number] += 1
        self.places = tuple(places)  # of each block, how many convolutions; a list might hold parameters

    def __call__(self, inputs: mx.array, cache: list | None = None, *others: object) -> mx.array:
        """Map tokens (b, s) to logits (b, s, vocabulary)."""
        pairs = list(zip(self.places, cache or [], strict=False))
        self.now.caches = [each[1] if places else None for places, each in pairs]
        logits = super().__call__(inputs, cache and [each[0] if places else each for places, each in pairs], *others)
        for each in filter(None, self.now.caches):
            each.advance(inputs.shape[1])
        return logits

    def make_cache(self) -> list:
        """Return a block's keys and values, and what its convolutions read last."""
        return [CacheList(KVCache(), ArraysCache(places)) if places else KVCache() for places in self.places]
