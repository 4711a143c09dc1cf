"""The plain low-rank projection: two thin matrices, y = B A x."""

from collections.abc import Mapping

from lost.errors import ConfigError
from lost.method.decompose import leading_pair
from lost.projections.base import Array, Projection, Tensor
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


class LowRank(Projection):
    """y = up down x, with down (rank x in) and up (out x rank): the usual low-rank baseline."""

    def __post_init__(self) -> None:
        check_rank(self)

    def _tensors(self) -> dict[str, Tensor]:
        """Down and up."""
        rank = self.settings.rank
        return {"down": Tensor((rank, self.in_features)), "up": Tensor((self.out_features, rank))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """Random factors, or the leading singular triplets of the weight that `dense` would start from."""
        if self.settings.start == "svd":
            down, up = leading_pair(self.dense_weight(seed, std), self.settings.rank)
        else:
            down, up = random_pair(self, seed, std)
        return {"down": down, "up": up}

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return up (down x)."""
        return x @ values["down"].T @ values["up"].T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return up down."""
        return values["up"] @ values["down"]

    def saved_per_token(self) -> int:
        """The bottleneck."""
        return self.settings.rank

    def narrow_per_token(self) -> int:
        """The bottleneck."""
        return self.settings.rank


def random_pair(projection: Projection, seed: int, std: float) -> tuple[Array, Array]:
    """Return down (rank x in) and up (out x rank), both normal with the same standard deviation.

    The entries of up @ down have the standard deviation of the dense weight, as in CoLA's code.
    """
    rank = projection.settings.rank
    factor_std = (projection.std(std) / rank**0.5) ** 0.5
    down = normal(seed, f"{projection.name}.down", (rank, projection.in_features), factor_std)
    return down, normal(seed, f"{projection.name}.up", (projection.out_features, rank), factor_std)
