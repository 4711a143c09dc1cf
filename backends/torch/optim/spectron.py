"""Spectron: Muon whose updates are as long as the factors' largest singular values allow."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.base import Rows
from lost.backends.torch.optim.muon import Muon, Shape
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.spectron import LEFT, factors


class Spectron(Muon):
    """Implements `Update`; arguments as of `Muon`."""

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        super().__init__(settings, tensors, table, rows)
        self._left = {shape: torch.ones_like(momenta[:, :, 0]) for shape, momenta in self._momenta.items()}

    def _lengths(self, lr: float, skip: Tensor) -> dict[Shape, Tensor]:
        """Return lr / (1 + both factors' largest singular values), by group; these take a step of power iteration."""
        sigmas: dict[str, Tensor] = {}
        for shape, group in self._groups.items():
            for turn in self._turns(shape):
                weights, left = self._stacked(group[turn]), self._left[shape][turn]
                right = self._rows.sum_rows((weights.mT @ left[:, :, None]).squeeze(-1))
                right = right / torch.linalg.vector_norm(right, dim=1, keepdim=True).clamp(min=1e-30)
                image = (weights @ right[:, :, None]).squeeze(-1)
                sigma = self._rows.sum_rows(image.square().sum(dim=1)).sqrt()
                moves = ~skip & (sigma > 0)
                left.copy_(torch.where(moves[:, None], image / sigma[:, None], left))
                sigmas |= {name: each for (name, _), each in zip(group[turn], sigma, strict=True)}
        return {
            shape: torch.stack([self._length(lr, name, sigmas) for name, _ in group])[:, None, None]
            for shape, group in self._groups.items()
        }

    def _length(self, lr: float, name: str, sigmas: Mapping[str, Tensor]) -> Tensor:
        total = torch.ones_like(sigmas[name])
        for each in factors(name):
            total = total + sigmas[each]
        return lr / total

    def _direction(self, gradients: Tensor, momentum: Tensor, skip: Tensor) -> Tensor:
        """Update the mean of the gradients of some matrices, and return it."""
        beta = self._settings.momentum
        return momentum.mul_(torch.where(skip, 1.0, beta)).add_(gradients, alpha=1 - beta)

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the momenta, the vectors and AdamW's moments."""
        yield from super().state()
        if self._begun:
            for shape, group in self._groups.items():
                yield from (
                    (f"{name}.{LEFT}", to_array(left)) for (name, _), left in zip(group, self._left[shape], strict=True)
                )

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays that `state` yields."""
        vectors = {
            name: left
            for shape, group in self._groups.items()
            for (name, _), left in zip(group, self._left[shape], strict=True)
        }

        def others() -> Iterator[tuple[str, np.ndarray]]:
            for name, array in arrays:
                owner, _, kind = name.rpartition(".")
                if kind == LEFT:
                    vectors[owner].copy_(to_tensor(array))
                else:
                    yield name, array

        super().load(others(), updates)
