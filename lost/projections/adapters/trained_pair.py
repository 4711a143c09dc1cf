"""Adapters whose pair is trained, at scale alpha / rank: LoRA, and those that begin otherwise."""

from typing import ClassVar

import numpy as np

from lost.method.decompose import leading_pair
from lost.method.eigen import leading_eigenvectors
from lost.projections.adapters.adapter import Adapter
from lost.projections.base import Array
from lost.utils.randomness import generator


class Lora(Adapter):
    """LoRA (Hu et al., arXiv 2106.09685): `up` starts at zero, `down` uniform within 1/sqrt(in), as in PEFT."""

    computes_as: ClassVar[str | None] = "pissa"

    def _adapting(self, weight: Array, seed: int, measured: Array | None) -> dict[str, Array]:
        """Return the weight itself beside a pair whose product is zero."""
        bound, shape = self.in_features**-0.5, (self.settings.rank, self.in_features)
        down = generator(seed, f"{self.name}.down").uniform(-bound, bound, shape)
        return {"weight": weight, "down": down, "up": np.zeros((self.out_features, self.settings.rank))}


class Pissa(Adapter):
    """PiSSA (Meng et al., arXiv 2404.02948): the leading singular triplets are trained, `weight` is what they leave."""

    keeps_base = False

    def _adapting(self, weight: Array, seed: int, measured: Array | None) -> dict[str, Array]:
        """Return the triplets, divided evenly between both factors, and the rest."""
        down, up = (factor / self.scale**0.5 for factor in leading_pair(weight, self.settings.rank))
        return {"weight": weight - self.scale * (up @ down), "down": down, "up": up}


class Eva(Lora):
    """EVA (Paischer et al., arXiv 2410.07170), one rank for all: `down` starts as the inputs' leading directions."""

    begins_by = "inputs"
    moves_ranks = True

    def _adapting(self, weight: Array, seed: int, measured: Array | None) -> dict[str, Array]:
        """Return LoRA's, with the leading eigenvectors of the inputs' second moment as `down`."""
        values = super()._adapting(weight, seed, None)
        if measured is None:
            return values
        return values | {"down": leading_eigenvectors(np.ascontiguousarray(measured), self.settings.rank).T}
