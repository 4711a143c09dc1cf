"""Adapters whose pair is fixed: only `core`, a small matrix or a vector between its sides, is trained.

    y = W x + up core down x

Each begins with a `core` of zeros, so with the base model's outputs to the bit; `alpha` isn't used.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from lost.method.decompose import leading_directions
from lost.projections.adapters.adapter import Adapter
from lost.projections.base import Array, Tensor, twins


class FixedPair(Adapter):
    """`down` (rank x in) and `up` (out x rank), frozen; `core` (rank x rank)."""

    layers: ClassVar[Mapping[str, str]] = twins("FixedPair")

    @property
    def scale(self) -> float:
        """What is between the sides has any scale."""
        return 1.0

    @property
    def keeps_input(self) -> bool:
        """No: of what is trained, none reads it."""
        return False

    def _adapting(self, weight: Array, seed: int, measured: Array | None) -> dict[str, Array]:
        """Return the weight itself beside a pair with zeros in between."""
        down, up = self._pair_of(weight, measured)
        return {"weight": weight, "down": down, "up": up, "core": np.zeros(self._core_shape)}

    def _pair_of(self, weight: Array, measured: Array | None) -> tuple[Array, Array]:
        """Return down and up: here the leading singular vectors of the weight."""
        down, up, _ = leading_directions(weight, self.settings.rank)
        return down, up

    @property
    def _core_shape(self) -> tuple[int, ...]:
        return self.settings.rank, self.settings.rank

    def pair(self, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return down, and up core."""
        up, core = values["up"], values["core"]
        return values["down"], up @ core if core.ndim == 2 else up * core

    def _tensors(self) -> dict[str, Tensor]:
        """The weight, the pair, and what is between."""
        frozen = {name: replace(each, frozen=True) for name, each in super()._tensors().items()}
        return {**frozen, "core": Tensor(self._core_shape)}


class LoraXs(FixedPair):
    """LoRA-XS (Balazy et al., arXiv 2405.17604): the pair is the weight's leading triplets, V^T and U S."""

    computes_as: ClassVar[str | None] = "lora_sb"

    def _pair_of(self, weight: Array, measured: Array | None) -> tuple[Array, Array]:
        """Return V^T and U S."""
        down, up, singular = leading_directions(weight, self.settings.rank)
        return down, up * singular


class LoraSb(FixedPair):
    """LoRA-SB (Ponkshe et al., arXiv 2411.19557): the pair spans the first step of training all weights.

    That step is AdamW's, the gradient's sign. The paper also begins `core` with the step's singular values, so with a
    model that has taken it; here `core` is zero.
    """

    begins_by = "gradients"

    def _pair_of(self, weight: Array, measured: Array | None) -> tuple[Array, Array]:
        """Return the leading singular vectors of the gradient's sign."""
        return super()._pair_of(weight if measured is None else np.sign(measured), None)


class SvFit(FixedPair):
    """SVFit (Sun et al., arXiv 2409.05926): of the weight's singular triplets, the leading singular values are trained.

    `core` (rank,) is what is added to them.
    """

    @property
    def _core_shape(self) -> tuple[int, ...]:
        return (self.settings.rank,)
