"""The plain low-rank projection: two thin matrices, y = B A x."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.errors import ConfigError
from lost.method.decompose import leading_pair
from lost.method.spectrum import Spectrum, energies_of_product
from lost.projections.base import Array, Projection, Tensor, twins
from lost.utils.randomness import normal


def check_rank(projection: Projection) -> None:
    """Refuse a rank larger than the matrix allows."""
    largest = min(projection.in_features, projection.out_features)
    if projection.settings.rank > largest:
        raise ConfigError(
            f"projection.rank = {projection.settings.rank} is larger than {projection.name} allows: it is "
            f"{projection.out_features} x {projection.in_features}, so its rank is at most {largest}; "
            "lower projection.rank or give this projection its own in projection.overrides"
        )


class Bottleneck(Projection):
    """A projection whose `down` maps to `rank` features, on which there may be a causal depthwise convolution.

    Its weight `conv` (n rank) has a part for each of n earlier tokens, the last one first; its tap for the token itself
    is 1, so that it changes nothing at the start.
    """

    def __post_init__(self) -> None:
        check_rank(self)

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the rank."""
        return {"rank": settings.rank}

    @property
    def earlier_tokens(self) -> int:
        """What the convolution reads."""
        return max(0, self.settings.short_conv_width - 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return those of the kind, and the convolution's."""
        count = self.earlier_tokens * self.settings.rank
        return super().tensors() | ({"conv": Tensor((count,))} if count else {})

    def initial(self, seed: int, std: float) -> dict[str, Array]:
        """Return those of the kind, and zeros for the convolution."""
        count = self.earlier_tokens * self.settings.rank
        return super().initial(seed, std) | ({"conv": np.zeros(count)} if count else {})

    def features(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return down x, (..., s, rank), convolved over s; before the first token there are zeros."""
        hidden = x @ values["down"].T
        y = hidden.copy()
        for number in range(1, self.earlier_tokens + 1):
            taps = values["conv"].reshape(-1, self.settings.rank)[number - 1]
            y[..., number:, :] += taps * hidden[..., :-number, :]
        return y

    def narrow_per_token(self) -> int:
        """The bottleneck."""
        return self.settings.rank

    def saved_beside(self, backend: str, device: str) -> int:
        """Count the sigmoid of an activation, which MLX keeps on a CPU."""
        return self.settings.rank if (backend, device) == ("mlx", "cpu") and self.has_activation else 0


class LowRank(Bottleneck):
    """y = up down x, with down (rank x in) and up (out x rank): the usual low-rank baseline."""

    layers: ClassVar[Mapping[str, str]] = twins("LowRank")
    decomposes_as: ClassVar[str | None] = "lowrank"

    @property
    def starts_at_zero(self) -> bool:
        """There is nothing beside `up`."""
        return self.settings.start == "zero"

    def _tensors(self) -> dict[str, Tensor]:
        """Down and up."""
        rank = self.settings.rank
        return {"down": Tensor((rank, self.in_features)), "up": Tensor((self.out_features, rank))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """Factors as the settings' `start` says."""
        down, up = initial_pair(self, seed, std)
        return {"down": down, "up": up}

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return up (down x)."""
        return self.features(x, values) @ values["up"].T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return up down."""
        return values["up"] @ values["down"]

    def spectrum(self, values: Mapping[str, Array]) -> Spectrum:
        """Return that of the product, which is never composed."""
        return Spectrum(energies_of_product(values["up"], values["down"]), self.settings.rank)

    def approximated(self, weight: Array) -> dict[str, Array]:
        """Return the leading singular triplets."""
        down, up = leading_pair(weight, self.settings.rank)
        return {"down": down, "up": up}

    def saved_per_token(self) -> int:
        """The bottleneck, and what is convolved of it."""
        return (2 if self.earlier_tokens else 1) * self.settings.rank

    def elementwise_per_token(self) -> int:
        """Count an activation's: it reads r and writes r, its backward pass reads 2 r and writes r."""
        return 5 * self.settings.rank if self.has_activation else 0


def initial_pair(projection: Projection, seed: int, std: float) -> tuple[Array, Array]:
    """Return down (rank x in) and up (out x rank) as the settings' `start` says; without one, random.

    svd: the leading singular triplets of the weight that `dense` would start from. random and orthogonal: both factors
    scaled alike, so that the entries of up @ down have the standard deviation of the dense weight; CoLA's code starts
    with the first. zero: up is zero, down normal at 1/sqrt(in): its features have the variance of the inputs.
    """
    rank, start, name = projection.settings.rank, projection.settings.start, projection.name
    shapes = (rank, projection.in_features), (projection.out_features, rank)
    if start == "svd":
        return leading_pair(projection.dense_weight(seed, std), rank)
    if start == "zero":
        return normal(seed, f"{name}.down", shapes[0], projection.in_features**-0.5), np.zeros(shapes[1])
    if start == "orthogonal":
        # up @ down has `rank` equal singular values, whose squares add up to those of all entries.
        scale = (projection.std(std) * (projection.in_features * projection.out_features / rank) ** 0.5) ** 0.5
        return orthogonal(seed, f"{name}.down", shapes[0], scale), orthogonal(seed, f"{name}.up", shapes[1], scale)
    factor_std = (projection.std(std) / rank**0.5) ** 0.5
    return normal(seed, f"{name}.down", shapes[0], factor_std), normal(seed, f"{name}.up", shapes[1], factor_std)


def orthogonal(seed: int, name: str, shape: tuple[int, int], scale: float) -> Array:
    """Return a random matrix all of whose singular values are `scale`."""
    values = normal(seed, name, shape, 1.0)
    basis, triangle = np.linalg.qr(values if shape[0] >= shape[1] else values.T)
    basis = scale * basis * np.sign(np.diag(triangle))  # uniform over all of them (Mezzadri, math-ph/0609050)
    return basis if shape[0] >= shape[1] else basis.T
