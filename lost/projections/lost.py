"""The LOST layer (arXiv 2508.02668): a low-rank pair plus a few whole input channels.

    y = gamma B act(down x) + (1 - gamma) sparse x[channels]

Stored with `up = [B | sparse]`, so that one matrix product computes y from r activated features and k raw channels.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lost.method.decompose import Factors, channel_count, compose, decompose
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array, Tensor, twins
from lost.projections.lowrank import Bottleneck, initial_pair
from lost.utils.randomness import generator


class Lost(Bottleneck):
    """`down` (r x in), `up` (out x (r + k)), `channels` (k sorted input channels), and `gamma` (1) if it is learned.

    Kept channels are the token's own; a convolution reads earlier tokens in the bottleneck alone.
    """

    layers: ClassVar[Mapping[str, str]] = twins("Lost")

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

    def saved_per_token(self) -> int:
        """What the activation and the convolution read, and the input of `up`; more in plain autograd."""
        settings, rank = self.settings, self.settings.rank
        before = {"low_rank": rank, "inner": rank + self.channels, "output": rank + self.out_features}
        more = before[settings.activation_at] if self.has_activation else 0
        more += rank if self.earlier_tokens else 0
        return rank + self.channels + more + (rank + self.channels if settings.learn_gamma else 0)

    def narrow_per_token(self) -> int:
        """The bottleneck and the kept channels."""
        return self.settings.rank + self.channels
