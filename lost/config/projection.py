"""The section `projection`: how the layers of a block store their weights."""

import fnmatch
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from lost.config.fields import Count, Float, Natural, Positive, Section, Share
from lost.config.registry import PROJECTIONS

ProjectionKind = Annotated[str, AfterValidator(PROJECTIONS.check)]
Activation = Literal["silu", "gelu", "relu2", "none"]
Select = Literal["l2", "l1", "leverage", "random"]
Values = Literal["original", "complement"]


def _reads_another(width: int) -> int:
    if width == 1:
        raise ValueError("a convolution of width 1 reads no other token; expected 2 or more, or 0 for none")
    return width


class ProjectionSettings(Section):
    """How one projection stores its weight.

    `dense` uses only `init_std` and, of `start`, zero and orthogonal; `lowrank` also `rank` and `short_conv_width`;
    `cola` these and `activation`; `sltrain` `rank`, `start`, `density`, `alpha` and `init_std`; `lost` all but `alpha`
    and `bits`; `lora`, `pissa` and `eva`, which adapt a dense model, `rank`, `alpha` and `bits`; `lora_xs`, `lora_sb`
    and `svfit`, which do too, `rank` and `bits`.
    """

    kind: ProjectionKind = "lost"
    """lost (arXiv 2508.02668), cola (2502.10940), sltrain (2406.02214), lowrank or dense; lora (2106.09685), pissa
    (2404.02948), eva (2410.07170), lora_xs (2405.17604), lora_sb (2411.19557) and svfit (2409.05926) adapt a dense
    model, with --init-from; or an extension's. See projections.md, adapters.md."""
    rank: Count = 128
    """Columns of the low-rank pair: at most the matrix's shorter side. More of them cost parameters and time, and
    fit better; a quarter to a half of `model.hidden_size` is usual."""
    init_std: Positive | Literal["fan_in"] | None = None
    """Standard deviation of the dense weight that the start approximates; fan_in: 1/sqrt(inputs); null: the model's
    `initializer_range`."""
    start: Literal["svd", "random", "zero", "orthogonal"] | None = None
    """Start of the low-rank pair: a dense weight's leading singular triplets (not for sltrain); random or orthogonal
    factors of the same scale; or zero, with `up` zero, and `down` and what is beside the pair normal at 1/sqrt(inputs).
    null: as in the kind's paper: svd for lost, random for lowrank and cola, and for sltrain an `up` of zeros beside its
    own scales."""
    density: Annotated[Float, Field(gt=0, le=1)] = 0.03
    """Share of input channels that a LOST layer keeps, rounded up to `align`; of entries that sltrain keeps."""
    gamma: Share = 0.7
    """Weight of the low-rank part; the sparse part has 1 - gamma."""
    learn_gamma: bool = False
    """Whether each layer's gamma is a parameter, which starts at `gamma`."""
    activation: Activation = "silu"
    """Of lost and cola, on their features; `none` leaves a layer linear, which exports as a dense one
    unless it has a convolution."""
    activation_at: Literal["low_rank", "inner", "output"] = "low_rank"
    """Where a LOST layer has its activation: on the low-rank features, on the kept channels too, or on the result."""
    short_conv_width: Annotated[Natural, Field(le=16), AfterValidator(_reads_another)] = 0
    """Width of a causal depthwise convolution on the bottleneck of lost, cola and lowrank, before the activation: 3
    adds the features of the two tokens before, each weighted by itself, from 0. 0: none. Such layers don't merge."""
    select: Select = "l2"
    """How channels are scored: by the l2 or l1 norm of their column in the low-rank residual, by how little of them the
    singular vectors capture (leverage), or at random."""
    values: Values = "original"
    """What a LOST layer's kept channels start from: the dense weight's columns, or what the low rank leaves of them."""
    align: Count = 32
    """rank + channels is rounded up to a multiple of this (faster, and quantizable); 1 disables it."""
    bits: Literal[4, 8] | None = None
    """Of adapters: bits of an entry of the frozen weight, in groups of 64 with a scale and a bias; rounded where a run
    begins. null: as `train.frozen_dtype` says."""
    alpha: Positive = 16.0
    """Of sltrain, lora, pissa and eva: the weight of their low-rank part is this divided by the rank."""


class ProjectionConfig(ProjectionSettings):
    """The settings of all projections, with exceptions by name pattern."""

    keep_gate_activation: bool = True
    """Whether SwiGLU keeps its own SiLU if the gate projection has an activation inside."""
    train_rest: bool = False
    """With adapters (lora and others): whether all else is trained too, the embedding, head, norms, biases and other
    kinds of layers; without them it is in any case."""
    rho: Annotated[Float, Field(ge=1)] = 1.0
    """With eva: how many times its rank a layer may have, when ranks move to layers whose inputs vary in few
    directions; their sum stays. What came of it is then in the run's `overrides`. 1: one rank for all."""
    overrides: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - pydantic copies it
    """`{"*.down_proj": {"rank": 64}}`: settings for the projections whose name matches; the last match wins."""

    @model_validator(mode="after")
    def _overrides_are_settings(self) -> "ProjectionConfig":
        for pattern in self.overrides:
            try:
                self._with(pattern)
            except ValidationError as error:
                problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise ValueError(f"overrides[{pattern!r}] isn't a set of projection settings: {problems}") from None
        return self

    def _with(self, pattern: str) -> ProjectionSettings:
        settings = self.model_dump(include=set(ProjectionSettings.model_fields))
        return ProjectionSettings.model_validate({**settings, **self.overrides[pattern]})

    def settings_for(self, name: str) -> ProjectionSettings:
        """Settings of the projection `name`, such as `model.layers.0.mlp.up_proj`."""
        matches = [pattern for pattern in self.overrides if fnmatch.fnmatchcase(name, pattern)]
        if matches:
            return self._with(matches[-1])
        return ProjectionSettings.model_validate(self.model_dump(include=set(ProjectionSettings.model_fields)))
