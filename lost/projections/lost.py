"""The LOST layer (arXiv 2508.02668): a low-rank pair plus a few whole input channels.

    y = gamma B act(down x) + (1 - gamma) sparse x[channels]

Stored with `up = [B | sparse]`, so that one matrix product computes y from r activated features and k raw channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lost.config import ProjectionSettings
from lost.method.compress import approximate
from lost.method.decompose import Factors, channel_count, compose, decompose
from lost.method.spectrum import Spectrum, energies_of_product, share_of_sparse
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array, Tensor, twins
from lost.projections.lowrank import Bottleneck, initial_pair
from lost.utils.randomness import generator


class Lost(Bottleneck):
    """`down` (r x in), `up` (out x (r + k)), `channels` (k sorted input channels), and `gamma` (1) if it is learned.

    Kept channels are the token's own; a convolution reads earlier tokens in the bottleneck alone.
    """

    layers: ClassVar[Mapping[str, str]] = twins("Lost")
    recasts: ClassVar[frozenset[str]] = frozenset({"torch"})
    decomposes_as: ClassVar[str | None] = "lost"

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        """Return the rank, what is kept, how both are weighted, and the activation."""
        return super().card_rows(settings) | {
            "kept share of channels": settings.density,
            "gamma": "learned" if settings.learn_gamma else settings.gamma,
            "activation": settings.activation,
        }

    @property
    def channels(self) -> int:
        """Number of kept input channels, rounded up to the settings' `align`."""
        settings = self.settings
        return channel_count(self.in_features, settings.density, settings.rank, settings.align)

    @property
    def has_activation(self) -> bool:
        """Whether there is an activation, inside or on the result."""
        return self.settings.activation != "none"

    def _tensors(self) -> dict[str, Tensor]:
        """Down, up = [B | sparse], the channel indices, and gamma if it is learned."""
        rank, kept = self.settings.rank, self.channels
        tensors = {
            "down": Tensor((rank, self.in_features)),
            "up": Tensor((self.out_features, rank + kept), parts=(rank, kept)),
            "channels": Tensor((kept,), below=self.in_features),
        }
        return tensors | ({"gamma": Tensor((1,))} if self.settings.learn_gamma else {})

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        """Decompose the weight that `dense` would start from.

        Other starts keep the channels and their values, so that starts differ in the low-rank pair alone; but beside a
        pair of zero product the values are scaled to 1/sqrt(inputs).
        """
        settings = self.settings
        factors = decompose(
            self.dense_weight(seed, std),
            settings.rank,
            settings.density,
            settings.select,
            settings.values,
            align=settings.align,
            random=generator(seed, f"{self.name}.channels"),
        )
        down, up = factors.down, factors.up
        if settings.start not in (None, "svd"):
            down, basis = initial_pair(self, seed, std)
            scale = self.in_features**-0.5 / self.std(std) if settings.start == "zero" else 1.0
            up = np.concatenate([basis, scale * up[:, settings.rank :]], axis=1)
        values = {"down": down, "up": up, "channels": factors.channels}
        return values | ({"gamma": np.array([settings.gamma])} if settings.learn_gamma else {})

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        """Return up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere."""
        settings, act = self.settings, ACTIVATIONS[self.settings.activation]
        gamma = values["gamma"] if settings.learn_gamma else settings.gamma
        hidden, kept = self.features(x, values), x[..., values["channels"]]
        if settings.activation_at != "output":
            hidden = act(hidden)
        if settings.activation_at == "inner":
            kept = act(kept)
        y = np.concatenate([gamma * hidden, (1 - gamma) * kept], axis=-1) @ values["up"].T
        return act(y) if settings.activation_at == "output" else y

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return gamma B down, and (1 - gamma) sparse on the kept channels."""
        gamma = float(values["gamma"][0]) if self.settings.learn_gamma else self.settings.gamma
        return compose(Factors(values["down"], values["up"], values["channels"], self.settings.rank), gamma)

    def spectrum(self, values: Mapping[str, Array]) -> Spectrum:
        """Return that of both parts, a product of [gamma B | (1 - gamma) sparse] and `down` above rows that select."""
        rank, kept, down, up = self.settings.rank, len(values["channels"]), values["down"], values["up"]
        gamma = values.get("gamma", self.settings.gamma)
        basis, sparse = gamma * up[:, :rank], (1 - gamma) * up[:, rank:]
        selection = np.zeros((kept, self.in_features))
        selection[np.arange(kept), values["channels"]] = 1.0
        energies = energies_of_product(np.concatenate([basis, sparse], axis=1), np.concatenate([down, selection]))
        low = float(np.sum((basis.T @ basis) * (down @ down.T)))
        return Spectrum(energies, rank, share_of_sparse(sparse, low))

    def approximated(self, weight: Array) -> dict[str, Array]:
        """Return the leading triplets and what they leave of the kept channels, undone by gamma (`approximate`)."""
        factors = approximate(weight, self.settings)
        return {"down": factors.down, "up": factors.up, "channels": factors.channels}

    def saved_per_token(self) -> int:
        """What the activation and the convolution read, and the input of `up`; more in plain autograd."""
        settings, rank = self.settings, self.settings.rank
        before = {"low_rank": rank, "inner": rank + self.channels, "output": rank + self.out_features}
        more = before[settings.activation_at] if self.has_activation else 0
        more += rank if self.earlier_tokens else 0
        return rank + self.channels + more + (rank + self.channels if settings.learn_gamma else 0)

    def saved_beside(self, backend: str, device: str) -> int:
        """Add what its kernel on Metal reads, where there is neither an activation nor a convolution."""
        kernel = backend == "mlx" and device != "cpu" and self.is_one_matrix
        return super().saved_beside(backend, device) + (self.settings.rank if kernel else 0)

    def elementwise_per_token(self) -> int:
        """Count an activation's, 5 r, and those of kept channels.

        They are read and written, their gradients read, and written for the product that has them.
        """
        return (5 * self.settings.rank if self.has_activation else 0) + 4 * self.channels

    def narrow_per_token(self) -> int:
        """The bottleneck and the kept channels."""
        return self.settings.rank + self.channels
