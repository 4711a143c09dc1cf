"""SLTrain (arXiv 2406.02214): a low-rank weight plus a sparse one with random, fixed support."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.errors import ConfigError
from lost.method.spectrum import Spectrum, energies_of, share_of_sparse
from lost.projections.base import Array, Projection, Tensor, twins
from lost.projections.lowrank import check_rank, initial_pair
from lost.utils.randomness import generator, normal


class SlTrain(Projection):
    """y = (alpha / rank up down + S) x, S being zero except for `values` at the row-major `indices`."""

    layers: ClassVar[Mapping[str, str]] = twins("SlTrain")
    recasts: ClassVar[frozenset[str]] = frozenset({"torch"})
    decomposes_as: ClassVar[str | None] = "lost"

    def __post_init__(self) -> None:
        check_rank(self)
        if self.settings.start == "svd":
            raise ConfigError(
                "projection.start = svd: sltrain has no such start; leave it out, or choose zero, random or orthogonal"
            )
        if self.in_features * self.out_features >= 2**31:
            raise ConfigError(
                f"{self.name} has {self.in_features * self.out_features} entries, and sltrain's indices are int32; "
                "expected fewer than 2^31; choose another kind for this projection in projection.overrides"
            )

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the rank."""
        return {"rank": settings.rank}

    @property
    def kept(self) -> int:
        """Number of nonzero entries of S."""
        return max(1, int(self.settings.density * self.in_features * self.out_features))

    @property
    def scale(self) -> float:
        """Weight of the low-rank part."""
        return self.settings.alpha / self.settings.rank

    def _tensors(self) -> dict[str, Tensor]:
        """The pair, the sparse values and their indices."""
        rank = self.settings.rank
        return {
            "down": Tensor((rank, self.in_features)),
            "up": Tensor((self.out_features, rank)),
            "values": Tensor((self.kept,), of_matrix=True),
            "indices": Tensor((self.kept,), below=self.in_features * self.out_features),
        }

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """Down and the values random, up zero, as in the paper, unless the settings have a start."""
        indices = generator(seed, f"{self.name}.indices").choice(
            self.in_features * self.out_features, self.kept, replace=False, shuffle=False
        )
        down, up = initial_pair(self, seed, std)
        if self.settings.start is None:
            down = normal(seed, f"{self.name}.down", down.shape, self.std(std))
            up = np.zeros_like(up)
        return {
            "down": down,
            "up": up,
            "values": normal(seed, f"{self.name}.values", (self.kept,), self._values_std(std)),
            "indices": np.sort(indices).astype(np.int32),
        }

    def _values_std(self, std: float) -> float:
        return self.in_features**-0.5 if self.settings.start == "zero" else self.std(std)

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return W x."""
        return x @ self.merged(values).T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return the whole weight."""
        weight: Array = self.scale * (values["up"] @ values["down"])
        weight.reshape(-1)[values["indices"]] += values["values"]
        return weight

    def spectrum(self, values: Mapping[str, Array]) -> Spectrum:
        """Return that of the whole weight."""
        low = self.scale * values["up"] @ values["down"]
        share = share_of_sparse(values["values"], float(np.sum(low**2)))
        return Spectrum(energies_of(self.merged(values)), self.settings.rank, sparse_share=share)

    def multiply_adds(self) -> int:
        """Those of a dense product: the weight is composed once a pass, whatever the number of tokens."""
        return self.in_features * self.out_features

    def saved_per_token(self) -> int:
        """Nothing beyond the input: the backward pass composes the weight again."""
        return 0
