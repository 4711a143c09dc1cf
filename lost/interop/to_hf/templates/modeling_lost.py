"""transformers' Llama with its linear layers stored as `config.projections` says (made by lost-pretrain).

Everything but the linear layers is transformers' own: caches, masks, attention backends, generation.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel, LlamaRMSNorm

from .configuration_lost import LostConfig

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu2": lambda x: F.relu(x).square(), "none": lambda x: x}
PARTS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


class Pass:
    """What convolutions know of the pass under way.

    The cache; which positions are no padding, (b, s, 1); and each token's number in its own text, likewise.
    """

    cache = None
    present = None
    positions = None


class Recent(DynamicSlidingWindowLayer):
    """The last features of a convolution as keys: those that it reads, and as many as may be taken back."""

    most = 64

    def __init__(self, count: int) -> None:
        super().__init__(sliding_window=count + self.most + 1)
        self.count = count

    def crop(self, tokens: int) -> None:
        """Take back: a negative number says how many tokens go, a positive one, of transformers 4, how many stay."""
        if not self.is_initialized:
            return
        back = -tokens if tokens <= 0 else max(0, self.cumulative_length - tokens)
        left = self.keys.shape[-2] - back
        if left < min(self.count, self.cumulative_length - back):
            raise ValueError(
                f"{back} tokens were to be taken back from a cache; expected at most {self.most}, which the "
                "convolutions of this model keep; in assisted decoding, lower num_assistant_tokens"
            )
        first = max(0, left - self.sliding_window + 1)
        self.keys, self.values = self.keys[:, :, first:left], self.values[:, :, first:left]
        self.cumulative_length -= back


class Layer(nn.Module):
    """What stands in the place of a matrix; a bias is added to what comes out, whatever the kind.

    On the bottleneck there may be a causal depthwise convolution, whose tap for the token itself is 1.
    """

    def __init__(self, outputs: int, stored: dict) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs)) if stored.get("bias") else None
        self.earlier, self.now, self.place = stored.get("earlier_tokens", 0), None, 0
        self.conv = nn.Parameter(torch.zeros(self.earlier * stored["rank"])) if self.earlier else None

    def convolved(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (b, s, rank) to (b, s, rank); in the cache, a layer of its own has the last features for keys."""
        if self.conv is None:
            return hidden
        if self.now.present is not None:
            hidden = hidden * self.now.present.to(hidden)
        count, length, before = self.earlier, hidden.shape[1], hidden
        if self.now.cache is not None:
            layers = self.now.cache.layers
            while len(layers) <= self.place:
                layers.append(Recent(count))
            before = layers[self.place].update(hidden[:, None], hidden[:, None, :, :0])[0][:, 0]
        before = F.pad(before, (0, 0, max(0, count + length - before.shape[1]), 0))[:, -count - length :]
        taps, mixed = self.conv.view(count, -1), hidden
        for n in range(1, count + 1):
            earlier = before[:, count - n : count - n + length]
            if self.now.positions is not None:  # of texts that follow each other, none reads the one before it
                earlier = earlier * (self.now.positions >= n).to(hidden)
            mixed = mixed + taps[n - 1] * earlier
        return mixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y = self.apply_weights(x)
        return y if self.bias is None else y + self.bias


class LowRank(Layer):
    """y = up act(down x)."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        self.down = nn.Linear(inputs, stored["rank"], bias=False)
        self.up = nn.Linear(stored["rank"], outputs, bias=False)
        self.act = ACTIVATIONS[stored["activation"]]

    def apply_weights(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.up(self.act(self.convolved(self.down(x))))


class SlTrain(Layer):
    """y = (scale up down + S) x, S zero but for `values` at the row-major places `indices`."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        self.shape, self.scale = (outputs, inputs), stored["scale"]
        self.down = nn.Linear(inputs, stored["rank"], bias=False)
        self.up = nn.Linear(stored["rank"], outputs, bias=False)
        self.values = nn.Parameter(torch.zeros(stored["entries"]))
        self.register_buffer("indices", torch.zeros(stored["entries"], dtype=torch.int32))

    def apply_weights(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        sparse = self.values.new_zeros(self.shape[0] * self.shape[1]).index_add(0, self.indices, self.values)
        return self.scale * self.up(self.down(x)) + F.linear(x, sparse.view(self.shape))


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere (arXiv 2508.02668)."""

    def __init__(self, inputs: int, outputs: int, stored: dict) -> None:
        super().__init__(outputs, stored)
        rank, kept = stored["rank"], stored["channels"]
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank + kept, outputs, bias=False)
        self.register_buffer("channels", torch.zeros(kept, dtype=torch.int32))
        self.gamma = nn.Parameter(torch.zeros(1)) if stored["gamma"] is None else stored["gamma"]
        self.act, self.activation_at = ACTIVATIONS[stored["activation"]], stored["activation_at"]

    def apply_weights(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        hidden, kept = self.convolved(self.down(x)), x.index_select(-1, self.channels)
        if self.activation_at != "output":
            hidden = self.act(hidden)
        if self.activation_at == "inner":
            kept = self.act(kept)
        y = self.up(torch.cat([self.gamma * hidden, (1 - self.gamma) * kept], dim=-1))
        return self.act(y) if self.activation_at == "output" else y


class Normed(nn.Module):
    """A projection to queries or keys, each head normed before it is rotated (as in Qwen3)."""

    def __init__(self, linear: nn.Module, width: int, eps: float) -> None:
        super().__init__()
        self.linear, self.norm, self.width = linear, LlamaRMSNorm(width, eps), width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., heads * width)."""
        return self.norm(self.linear(x).unflatten(-1, (-1, self.width))).flatten(-2)


KINDS = {"lowrank": LowRank, "sltrain": SlTrain, "lost": Lost}


def layer(inputs: int, outputs: int, stored: dict, eps: float) -> nn.Module:
    """Return an empty layer."""
    if stored["kind"] == "dense":
        made: nn.Module = nn.Linear(inputs, outputs, bias=stored.get("bias", False))
    else:
        made = KINDS[stored["kind"]](inputs, outputs, stored)
    return Normed(made, stored["norm"], eps) if "norm" in stored else made


def exchange(trunk: LlamaModel, config: LostConfig) -> None:
    """Put what `config.projections` says in the place of the plain matrices."""
    trunk.__class__ = LostModel
    trunk.now = Pass()
    for number, block in enumerate(trunk.layers):
        for part in PARTS:
            plain, stored = block.get_submodule(part), config.stored(number, part)
            block.set_submodule(part, layer(plain.in_features, plain.out_features, stored, config.rms_norm_eps))
        if not config.stored(number, "mlp.gate_proj")["gate_activation"]:
            block.mlp.act_fn = nn.Identity()
    # In a cache, places behind those of keys and values.
    convolved = [each for each in trunk.modules() if isinstance(each, Layer) and each.conv is not None]
    for place, each in enumerate(convolved, len(trunk.layers)):
        each.now, each.place = trunk.now, place
    trunk.convolved = bool(convolved)


class LostModel(LlamaModel):
    """Everything but the head."""

    config_class = LostConfig

    def __init__(self, config: LostConfig) -> None:
        super().__init__(config)
        exchange(self, config)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ):
        """Llama's, after telling convolutions what they can't see."""
        if self.convolved:
            if "attention_instances" in kwargs:  # vLLM and SGLang: requests in one row, and a cache of keys and values
                raise ValueError(
                    "this model's layers read earlier tokens (earlier_tokens in config.json), which vLLM and SGLang "
                    "don't keep for them; expected a model trained with projection.short_conv_width=0; serve this one "
                    "with mlx-lm or transformers"
                )
            if self.gradient_checkpointing and self.training:  # blocks run twice, and take no cache
                past_key_values, use_cache = None, False
            if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
                past_key_values = DynamicCache(config=self.config)
            if past_key_values is not None:
                layers = past_key_values.layers
                while len(layers) < len(self.layers):  # a cache made without a configuration has none yet
                    layers.append(past_key_values.layer_class_to_replicate())
            length = (inputs_embeds if input_ids is None else input_ids).shape[1]
            padded = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
            self.now.cache = past_key_values
            self.now.present = attention_mask[:, -length:, None] if padded else None
            self.now.positions = None if position_ids is None else position_ids[..., None]
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class LostForCausalLM(LlamaForCausalLM):
    """The trunk as `model`, the head as `lm_head`."""

    config_class = LostConfig

    def __init__(self, config: LostConfig) -> None:
        super().__init__(config)
        exchange(self.model, config)
        self.post_init()
