"""Adapters: a dense weight that stays as it is, and little beside it that is trained.

    y = W x + scale up down x

They begin with the weights of a dense model (`lost.reshape.adapters`), and merge into one. In `trained_pair` are those
whose pair is trained, at scale alpha / rank; in `fixed_pair` those whose pair is fixed.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from lost.config import ProjectionSettings
from lost.errors import ConfigError
from lost.method.quantized import GROUP, quantized, unpacked
from lost.projections.base import Array, Projection, Tensor, twins
from lost.projections.lowrank import check_rank


class Adapter(Projection):
    """`weight` (out x in), frozen, and beside it what amounts to a pair, down (rank x in) and up (out x rank).

    Attributes:
        keeps_base: whether `weight` is the dense model's own.
        begins_by: what it is to be told of the run's data: the second moment of what the layer reads, the mean of x x^T
            (in x in); or the gradient of the mean loss for the weight (out x in).
        moves_ranks: whether ranks move between its layers (`projection.rho`), to those whose inputs' leading
            directions hold less of them.
    """

    layers: ClassVar[Mapping[str, str]] = twins("Adapter")

    keeps_base: ClassVar[bool] = True
    begins_by: ClassVar[Literal["inputs", "gradients"] | None] = None
    moves_ranks: ClassVar[bool] = False

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the rank."""
        return {"rank": settings.rank}

    def __post_init__(self) -> None:
        check_rank(self)
        if self.settings.bits and self.in_features % GROUP:
            raise ConfigError(
                f"projection.bits = {self.settings.bits}: {self.name} has {self.in_features} inputs, and each "
                f"{GROUP} have a scale; expected a multiple of that; give this projection bits: null, in "
                "projection.overrides"
            )

    @property
    def scale(self) -> float:
        """Weight of the low-rank pair."""
        return self.settings.alpha / self.settings.rank

    def adapting(self, weight: Array, seed: int, measured: Array | None = None) -> dict[str, Array]:
        """Return the tensors, without the bias, that compute what a dense weight does, float64 but for words of bits.

        Args:
            weight: (out x in).
            seed: the run's.
            measured: what the kind begins by, float64; None: nothing is, in tests and timings.
        """
        values, bits = self._adapting(weight, seed, measured), self.settings.bits
        if bits is None:
            return values
        return values | dict(zip(("weight", "scales", "biases"), quantized(values["weight"], bits), strict=True))

    @abstractmethod
    def _adapting(self, weight: Array, seed: int, measured: Array | None) -> dict[str, Array]:
        """Return the tensors, the weight as a matrix."""

    def frozen_weight(self, values: Mapping[str, Array]) -> Array:
        """Return the weight (out x in), unpacked where it has few bits."""
        bits = self.settings.bits
        if bits is None:
            return values["weight"]
        return unpacked(values["weight"], values["scales"], values["biases"], bits)

    def pair(self, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return down (rank x in) and up (out x rank), of whose product `scale` times is added to the weight."""
        return values["down"], values["up"]

    def _tensors(self) -> dict[str, Tensor]:
        """The weight and the pair."""
        rank = self.settings.rank
        pair = {"down": Tensor((rank, self.in_features)), "up": Tensor((self.out_features, rank))}
        return {**self._frozen(), **pair}

    def _frozen(self) -> dict[str, Tensor]:
        """The weight as it is stored."""
        rows, columns, bits = self.out_features, self.in_features, self.settings.bits
        if bits is None:
            return {"weight": Tensor((rows, columns), frozen=True)}
        groups = Tensor((rows, columns // GROUP), frozen=True)
        return {"weight": Tensor((rows, columns * bits // 32), bits=bits), "scales": groups, "biases": groups}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """Adapt the weight that `dense` would start from: for tests and timings; runs adapt a model's."""
        return self.adapting(self.dense_weight(seed, std), seed)

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return W x + scale up down x."""
        down, up = self.pair(values)
        return x @ self.frozen_weight(values).T + self.scale * (x @ down.T) @ up.T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return W + scale up down."""
        down, up = self.pair(values)
        whole: Array = self.frozen_weight(values) + self.scale * (up @ down)
        return whole

    def multiply_adds(self) -> int:
        """Those of the weight, whatever it is stored in, and what is beside it."""
        beside = sum(each.size for name, each in self._tensors().items() if name not in self._frozen())
        return self.out_features * self.in_features + beside

    def saved_per_token(self) -> int:
        """The bottleneck."""
        return self.settings.rank

    def narrow_per_token(self) -> int:
        """W x, and the bottleneck."""
        return self.out_features + self.settings.rank
