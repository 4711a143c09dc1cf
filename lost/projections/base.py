"""The interface of a projection: its tensors, their initial values, what it computes, what it costs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.utils.randomness import normal

Array = np.ndarray


@dataclass(frozen=True)
class Tensor:
    """Shape of one stored array.

    With `below`, it holds sorted, distinct indices from 0 up to that limit: int32, never trained, without moments. With
    `parts`, its columns are in groups of these widths, which differ in meaning. With `of_matrix`, it holds entries of a
    matrix in a shape of their own. If it is `frozen`, it stays as it was when training began. With `bits`, each int32
    holds 32 / bits numbers of a frozen matrix (`lost.method.quantized`).
    """

    shape: tuple[int, ...]
    below: int = 0
    parts: tuple[int, ...] = ()
    of_matrix: bool = False
    frozen: bool = False
    bits: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def integer(self) -> bool:
        """Whether it is int32: it holds indices, or numbers of few bits."""
        return self.below > 0 or self.bits > 0

    @property
    def trained(self) -> bool:
        """Whether it has a gradient."""
        return not (self.integer or self.frozen)


def twins(name: str) -> Mapping[str, str]:
    """Return `Projection.layers` of a class that both backends have, under one name, in their own `layers.py`."""
    return MappingProxyType({backend: f"lost.backends.{backend}.layers:{name}" for backend in ("torch", "mlx")})


@dataclass(frozen=True)
class Projection(ABC):
    """A linear map of `in_features` to `out_features`, or its replacement.

    To add a kind: subclass this in a file of its own, with `layers`, and register it in `lost.projections.KINDS`.

    Attributes:
        layers: each backend's layer for it, as `module:Class`.
    """

    layers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    name: str
    in_features: int
    out_features: int
    settings: ProjectionSettings
    bias: bool = False
    """Whether a vector is added to the output, whatever the kind."""

    def __post_init__(self) -> None:  # noqa: B027 - most kinds accept any shape
        """Refuse settings that don't fit the shape, with a ConfigError."""

    @property
    def has_activation(self) -> bool:
        """Whether the map is nonlinear."""
        return False

    @property
    def keeps_input(self) -> bool:
        """Whether its input is saved for the backward pass."""
        return True

    @property
    def starts_at_zero(self) -> bool:
        """Whether its outputs are zero before the first update, whatever it reads."""
        return False

    @property
    def earlier_tokens(self) -> int:
        """How many tokens before its own an output depends on: `forward` then takes (..., s, in), in their order."""
        return 0

    def dense_weight(self, seed: int, std: float) -> Array:
        """Return the weight (out x in) that `dense` starts from, float64; `std` unless the settings have their own."""
        return normal(seed, f"{self.name}.weight", (self.out_features, self.in_features), self.std(std))

    def std(self, default: float) -> float:
        """Return the standard deviation of the dense weight that this projection replaces."""
        own = self.settings.init_std
        return self.in_features**-0.5 if own == "fan_in" else own or default

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by suffix: the parameter is called `<name>.<suffix>`."""
        return self._tensors() | ({"bias": Tensor((self.out_features,))} if self.bias else {})

    def initial(self, seed: int, std: float) -> dict[str, Array]:
        """Return initial values by suffix: float64 (out x in), int32 for indices. A bias starts at zero.

        Args:
            seed: the run's; values depend on it and on the parameter's name only.
            std: standard deviation of the dense weight that this projection replaces, unless its settings have one.
        """
        return self._initial(seed, std) | ({"bias": np.zeros(self.out_features)} if self.bias else {})

    def forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Map `x` (..., in_features) to (..., out_features): the slow reference for the backends."""
        y = self._forward(x, values)
        return y + values["bias"] if self.bias else y

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a kind; the bias is handled here, not in the methods of a kind."""

    @abstractmethod
    def _initial(self, seed: int, std: float) -> dict[str, Array]: ...

    @abstractmethod
    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array: ...

    @abstractmethod
    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return the equivalent dense weight (out x in), without the bias.

        Only defined without an activation, and where outputs depend on their own token alone.
        """

    @abstractmethod
    def saved_per_token(self) -> int:
        """Count the elements per token saved for the backward pass, without the input `x`."""

    def narrow_per_token(self) -> int:
        """Count the elements per token of the first half, which the policy `narrow` saves."""
        return self.out_features

    def multiply_adds(self) -> int:
        """Count the multiply-adds of one token's forward pass."""
        bias = self.out_features if self.bias else 0
        return sum(each.size for each in self.tensors().values() if not each.integer) - bias

    def parameters(self) -> int:
        """Count the trained parameters."""
        return sum(each.size for each in self.tensors().values() if each.trained)
