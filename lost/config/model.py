"""The section `model`: the host model's shape, under Hugging Face's names."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lost.config.fields import Count, Float, Positive, Section


class RopeScaling(Section):
    """Lowering of rotary frequencies, for more positions than in pre-training."""

    rope_type: Literal["linear", "llama3"]
    """linear: all by `factor`; llama3: the low ones by `factor`, the high ones not, smoothly between."""
    factor: Annotated[Float, Field(ge=1)]
    """How many times as many positions as in pre-training."""
    low_freq_factor: Positive | None = None
    """llama3: frequencies with fewer turns than this in the original positions are lowered by all of `factor`."""
    high_freq_factor: Positive | None = None
    """llama3: frequencies with more turns than this in the original positions stay."""
    original_max_position_embeddings: Count | None = None
    """llama3: positions in pre-training."""

    @model_validator(mode="after")
    def _llama3_is_complete(self) -> "RopeScaling":
        low, high = self.low_freq_factor, self.high_freq_factor
        given = [each is not None for each in (low, high, self.original_max_position_embeddings)]
        if any(given) if self.rope_type == "linear" else not all(given):
            raise ValueError(
                f"rope_type = {self.rope_type}: low_freq_factor, high_freq_factor and original_max_position_embeddings "
                "belong to llama3, all three; remove or complete them"
            )
        if low is not None and high is not None and low >= high:
            raise ValueError(f"low_freq_factor = {low} isn't below high_freq_factor = {high}; lower it")
        return self


class ModelConfig(Section):
    """The host model: LLaMA and its nearest relatives, with Hugging Face's names."""

    hidden_size: Count
    """Width of the residual stream."""
    intermediate_size: Count
    """Width inside the MLP (SwiGLU), usually 8/3 of `hidden_size`."""
    num_hidden_layers: Annotated[Count, Field(le=10_000)]
    """Number of blocks."""
    num_attention_heads: Count
    """Number of query heads; widths of 64 to 128 a head are usual."""
    num_key_value_heads: Count | None = None
    """Number of key and value heads (grouped-query attention); null: `num_attention_heads`. Fewer of them shorten the
    cache in generation."""
    head_dim: Count | None = None
    """Width of an attention head; null: hidden_size / num_attention_heads."""
    vocab_size: Count | None = None
    """Rows of the embedding and the head; null: as many as the data's tokenizer has entries. Set it to pad them, or
    for a model whose rows are given."""
    max_position_embeddings: Count = 2048
    """The most positions the model reads at once: at least `data.seq_len`, and the limit of generation."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square in every norm."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies; larger for longer contexts."""
    rope_scaling: RopeScaling | None = None
    """Lowering of the rotary frequencies, as a pre-trained model has it; null: none."""
    attention_bias: bool | Literal["qkv"] = False
    """Whether q, k, v and o have a bias (Llama, Qwen3); `qkv`: all but o (Qwen2)."""
    mlp_bias: bool = False
    """Whether gate, up and down have a bias."""
    use_qk_norm: bool = False
    """QK-norm: whether each head's queries and keys are normalized before rotation (Qwen3)."""
    tie_word_embeddings: bool = False
    """Whether the head is the embedding. Saves its parameters, which are a large part of a small model."""
    initializer_range: Positive = 0.02
    """Standard deviation of initial weights: the embedding's, the head's and, unless `projection.init_std` is set, the
    projections'."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary positions rotate pairs: choose an even width")
        if self.head_dim is None and (self.hidden_size % self.num_attention_heads or self.head_width % 2):
            raise ValueError(
                f"num_attention_heads = {self.num_attention_heads} doesn't divide hidden_size = {self.hidden_size} "
                "into heads of an even width; choose a number of heads that does"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_key_value_heads = {self.key_value_heads} doesn't divide num_attention_heads = "
                f"{self.num_attention_heads}; choose a divisor"
            )
        return self

    @property
    def head_width(self) -> int:
        """Width of one attention head, with the default resolved."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def attention_width(self) -> int:
        """Total width of all heads' queries."""
        return self.num_attention_heads * self.head_width

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, with the default resolved."""
        return self.num_key_value_heads or self.num_attention_heads
