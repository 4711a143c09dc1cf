"""Spectron (arXiv 2602.12429): orthogonal updates of both factors of a weight, as long as their product allows.

    rho = lr / (sigma_max(down) + sigma_max(up) + 1)

So no step changes the product up down by more than lr in its largest singular value, however large the factors are.
Singular values are followed by one step of power iteration an update.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import Config
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS, AdamW
from lost.optim.base import Array, Arrays, Table
from lost.optim.muon import MOMENTUM, Muon, is_orthogonalized, newton_schulz

LEFT = "left_vector"


class Spectron(Muon):
    """Keeps a momentum of each matrix inside the blocks, an estimate of its first left singular vector, and AdamW's."""

    arrays: ClassVar[tuple[str, ...]] = (MOMENTUM, LEFT, *MOMENTS)
    reads = AdamW.reads | {"momentum", "split_up", "orthogonalize_dtype"}  # `split_up`: to refuse it
    begun_anew: ClassVar[Mapping[str, float]] = MappingProxyType({LEFT: 1.0})
    rate_settings = ()
    updates: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"torch": "lost.backends.torch.optim.spectron:Spectron", "mlx": "lost.backends.mlx.optim.spectron:Spectron"}
    )

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse what `Muon` refuses, and settings that mean nothing here."""
        super().check(config)
        if config.optimizer.split_up:
            raise ValueError("optimizer.split_up = true with spectron: it updates factors as a whole; leave it out")

    @property
    def has_adamws_rates(self) -> bool:
        """False: a rate is by how much a product of two factors may move."""
        return False

    def width_powers(self, row: Parameter) -> tuple[float, float]:
        """Return that nothing is left for matrices inside the blocks: their product moves by the rate at any width."""
        return (0.0, 0.0) if is_orthogonalized(row) else super().width_powers(row)

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the momentum's shape and the vector's, or those of AdamW's moments."""
        return super().shapes(row) | ({LEFT: row.shape[:1]} if is_orthogonalized(row) else {})

    def step(
        self, table: Table, weights: Arrays, gradients: Arrays, states: Mapping[str, Arrays], lr: float, number: int
    ) -> dict[str, Array]:
        """Return all weights after an update."""
        sigmas = {
            name: largest_singular_value(weights[name], states[name][LEFT])
            for name in gradients
            if is_orthogonalized(table[name])
        }
        moved = {}
        for name, gradient in gradients.items():
            row, weight, state = table[name], weights[name], states[name]
            if name not in sigmas:
                moved[name] = super().update(row, weight, gradient, state, lr, number)
                continue
            momentum, beta = state[MOMENTUM], self.settings.momentum
            momentum[...] = beta * momentum + (1 - beta) * gradient
            length = lr / (1 + sum(sigmas[each] for each in factors(name) if each in sigmas))
            moved[name] = weight * (1 - lr * self.group(row).weight_decay) - length * newton_schulz(momentum)
        return moved


def factors(name: str) -> tuple[str, ...]:
    """Return the names of both factors of the weight that a matrix is a factor of; of one that is none, nothing."""
    owner, _, kind = name.rpartition(".")
    return (f"{owner}.down", f"{owner}.up") if kind in ("down", "up") else ()


def largest_singular_value(weight: Array, left: Array) -> float:
    """Return the estimate of a step of power iteration from a left vector, which moves; zeros stand for ones."""
    start = left if left.any() else np.ones_like(left)
    right = weight.T @ start
    right = right / (np.linalg.norm(right) + 1e-30)
    image = weight @ right
    sigma = float(np.linalg.norm(image))
    if sigma > 0:
        left[...] = image / sigma
    return sigma
