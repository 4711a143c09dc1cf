"""What the core must know about a projection: its tensors, their first values, what it computes, what it costs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.utils.randomness import normal

Array = np.ndarray


@dataclass(frozen=True)
class Tensor:
    """Shape of one stored array.

    With `below`, it holds sorted, distinct places from 0 to less than that: int32, never trained, without moments.
    """

    shape: tuple[int, ...]
    below: int = 0

    @property
    def integer(self) -> bool:
        """Whether it holds places."""
        return self.below > 0


@dataclass(frozen=True)
class Projection(ABC):
    """A linear map of `in_features` to `out_features`, or what stands in its place.

    To add a kind: subclass this in a file of its own, with `layers`, and name it in `lost.projections.KINDS`.

    Attributes:
        layers: where each backend finds the layer that computes it, as `module:Class`; a backend has those of the kinds
            that come with it in its own `layers.py`.
    """

    layers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    name: str
    in_features: int
    out_features: int
    settings: ProjectionSettings
    bias: bool = False
    """Whether a vector is added to what comes out, whatever the kind."""

    def __post_init__(self) -> None:  # noqa: B027 - most kinds accept any shape
        """Refuse settings that the shape doesn't allow, with a ConfigError."""

    @property
    def has_activation(self) -> bool:
        """Whether the map is nonlinear."""
        return False

    def dense_weight(self, seed: int, std: float) -> Array:
        """Return the weight (out x in) that `dense` starts from, float64; `std` where the settings have none."""
        return normal(seed, f"{self.name}.weight", (self.out_features, self.in_features), self.std(std))

    def std(self, default: float) -> float:
        """Return the standard deviation of the dense weight that this projection stands for."""
        own = self.settings.init_std
        return self.in_features**-0.5 if own == "fan_in" else own or default

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by suffix: the parameter is called `<name>.<suffix>`."""
        return self._tensors() | ({"bias": Tensor((self.out_features,))} if self.bias else {})

    def initial(self, seed: int, std: float) -> dict[str, Array]:
        """Return first values by suffix: float64 (out x in orientation), int32 for integers. A bias starts at zero.

        Args:
            seed: the run's seed; values depend on it and on the parameter's name only.
            std: standard deviation of the dense weight that this projection stands for, unless its settings have one.
        """
        return self._initial(seed, std) | ({"bias": np.zeros(self.out_features)} if self.bias else {})

    def forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Map `x` (..., in_features) to (..., out_features): the slow reference of the backends."""
        y = self._forward(x, values)
        return y + values["bias"] if self.bias else y

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a kind; the bias is not its business, here and below."""

    @abstractmethod
    def _initial(self, seed: int, std: float) -> dict[str, Array]: ...

    @abstractmethod
    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array: ...

    @abstractmethod
    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return the weight (out x in) that this map is, without its bias; only where it has no activation."""

    @abstractmethod
    def saved_per_token(self) -> int:
        """Count the elements a token that training keeps for the backward pass, the input `x` left out."""

    def narrow_per_token(self) -> int:
        """Count the elements a token of the first half, all that the policy `narrow` keeps where it may."""
        return self.out_features

    def multiply_adds(self) -> int:
        """Count the multiply-adds of one token's forward pass."""
        return self.parameters() - (self.out_features if self.bias else 0)

    def parameters(self) -> int:
        """Count the trained parameters."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors().values() if not tensor.integer)
