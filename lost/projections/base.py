"""The interface of a projection: its tensors, their initial values, what it computes, what it costs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import getattr_static
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.method.spectrum import Spectrum, energies_of
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


OF_THE_LAYERS = ("recasts", "saved_beside", "elementwise_per_token", "spectrum", "decomposes_as", "approximated")
"""What a kind states of what its layers compute, so that another kind's layers may make it wrong."""


@dataclass(frozen=True)
class Projection(ABC):
    """A linear map of `in_features` to `out_features`, or its replacement.

    To add a kind: subclass this in a file of its own, with `layers`, and register it in `lost.projections.KINDS`. What
    isn't abstract has a default that claims nothing. A subclass of another kind that has `layers` of its own inherits
    none of `OF_THE_LAYERS`: it states them anew, or has these defaults.

    Attributes:
        layers: each backend's layer for it, as `module:Class`.
        recasts: the backends whose passes cast its weights anew each time, and so keep no casts of them.
        computes_as: the kind whose layers compute what this one's do, so that a self-test of one is of both; it counts
            only where both have the same `layers`.
        decomposes_as: the kind, without activation, that approximates the matrix of this one at any rank; None: none.
    """

    layers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    recasts: ClassVar[frozenset[str]] = frozenset()
    computes_as: ClassVar[str | None] = None
    decomposes_as: ClassVar[str | None] = None

    name: str
    in_features: int
    out_features: int
    settings: ProjectionSettings
    bias: bool = False
    """Whether a vector is added to the output, whatever the kind."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Take back what a subclass with layers of its own would claim of another's by inheritance."""
        super().__init_subclass__(**arguments)
        if "layers" in vars(cls):
            without = next(each for each in cls.__mro__[1:] if getattr(each, "layers", None) is Projection.layers)
            for name in OF_THE_LAYERS:
                if name not in vars(cls):
                    setattr(cls, name, getattr_static(without, name))

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

    @property
    def is_one_matrix(self) -> bool:
        """Whether its outputs are one matrix times its inputs: without an activation, of their own token alone."""
        return not (self.has_activation or self.earlier_tokens)

    @property
    def channels(self) -> int:
        """Number of input channels that are kept whole: read without a product."""
        return 0

    @classmethod
    def compared_settings(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the settings that a comparison changes, beside the kind, of those that another kind has."""
        return {}

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return what a model card says of the settings that this kind reads: values by what they are called there."""
        return {}

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
        """Return the equivalent dense weight (out x in), without the bias: only defined for what `is_one_matrix`."""

    def spectrum(self, values: Mapping[str, Array]) -> Spectrum | None:
        """Return the singular values of the matrix, activations taken as the identity; None: none is known.

        Args:
            values: by suffix, float64 but for integers.
        """
        return Spectrum(energies_of(self.merged(values))) if self.is_one_matrix else None

    def approximated(self, weight: Array) -> dict[str, Array] | None:
        """Return tensors, without the bias, whose matrix is near a weight (out x in), float64 but for indices.

        Asked of kinds that some kind `decomposes_as`, without activation. None: this one approximates no matrix.
        """
        return None

    @abstractmethod
    def saved_per_token(self) -> int:
        """Count the elements per token saved for the backward pass, without the input `x`."""

    def saved_beside(self, backend: str, device: str) -> int:
        """Count the elements per token that a backend saves on a device beside `saved_per_token`."""
        return 0

    def elementwise_per_token(self) -> int | None:
        """Count the elements per token that are read and written between products, forward and backward, compiled.

        None: that isn't known, so a roofline of the model isn't either.
        """
        return None

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
