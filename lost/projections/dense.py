"""A plain matrix: y = W x."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lost.projections.base import Array, Projection, Tensor, twins
from lost.projections.lowrank import orthogonal


class Dense(Projection):
    """y = W x, with W (out x in)."""

    layers: ClassVar[Mapping[str, str]] = twins("Dense")
    decomposes_as: ClassVar[str | None] = "dense"

    def _tensors(self) -> dict[str, Tensor]:
        """W alone."""
        return {"weight": Tensor((self.out_features, self.in_features))}

    @property
    def starts_at_zero(self) -> bool:
        """As the settings say."""
        return self.settings.start == "zero"

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """W normal with standard deviation `std`; or zero, or of equal singular values and the same mean square."""
        shape, start = (self.out_features, self.in_features), self.settings.start
        if start == "zero":
            return {"weight": np.zeros(shape)}
        if start == "orthogonal":
            return {"weight": orthogonal(seed, f"{self.name}.weight", shape, self.std(std) * max(shape) ** 0.5)}
        return {"weight": self.dense_weight(seed, std)}

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return W x."""
        return x @ values["weight"].T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return W."""
        return values["weight"]

    def approximated(self, weight: Array) -> dict[str, Array]:
        """Return the weight itself."""
        return {"weight": weight}

    def saved_per_token(self) -> int:
        """Nothing beyond the input."""
        return 0

    def elementwise_per_token(self) -> int:
        """Nothing: there is one product."""
        return 0
