"""AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.model.parameters import Parameter
from lost.optim.base import Array, Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(Optimizer):
    """Running means of gradients and of their squares; decay applies to matrices."""

    arrays: ClassVar[tuple[str, ...]] = MOMENTS
    never_negative = (MOMENTS[1],)
    reads: ClassVar[frozenset[str]] = frozenset({"betas", "eps"})
    gradient_powers: ClassVar[Mapping[str, int]] = MappingProxyType({MOMENTS[0]: 1, MOMENTS[1]: 2})
    updates: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"torch": "lost.backends.torch.optim.adamw:AdamW", "mlx": "lost.backends.mlx.optim.adamw:AdamW"}
    )

    @property
    def has_adamws_rates(self) -> bool:
        """True: they are its own."""
        return True

    def update(
        self, row: Parameter, weight: Array, gradient: Array, state: Mapping[str, Array], lr: float, number: int
    ) -> Array:
        """Return the weight after an update (algorithm 2)."""
        first, second = (state[name] for name in MOMENTS)
        first_beta, second_beta = self.settings.betas
        first += (1 - first_beta) * (gradient - first)
        second += (1 - second_beta) * (gradient**2 - second)
        scale = np.sqrt(second / (1 - second_beta**number)) + self.settings.eps
        rate, decay = self.group(row)
        moved: Array = weight - lr * rate * (first / (1 - first_beta**number) / scale + decay * weight)
        return moved
