"""Spectron: Muon whose updates are as long as the factors' largest singular values allow."""

from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx

from lost.backends.mlx.optim.base import Named
from lost.backends.mlx.optim.muon import Muon
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.spectron import LEFT, factors


class Spectron(Muon):
    """Implements `Update`; arguments as of `Muon`."""

    def __init__(self, settings: OptimizerConfig, parameters: Named, table: Mapping[str, Parameter]) -> None:
        super().__init__(settings, parameters, table)
        self._left = {name: mx.ones(parameters[name].shape[:1]) for name in self._matrices}

    def _lengths(self, lr: mx.array, parameters: Named) -> Callable[[str, tuple[int, ...]], mx.array]:
        """Return lr / (1 + both factors' largest singular values); these take a step of power iteration."""
        sigmas: Named = {}
        for name in self._matrices:
            right = parameters[name].T @ self._left[name]
            image = parameters[name] @ (right / mx.maximum(mx.linalg.norm(right), 1e-30))
            sigmas[name] = mx.linalg.norm(image)
            self._left[name] = mx.where(sigmas[name] > 0, image / sigmas[name], self._left[name])
        return lambda name, shape: lr / (1 + sum((sigmas[each] for each in factors(name)), mx.array(0.0)))

    def _direction(self, name: str, gradient: mx.array) -> mx.array:
        """Update the mean of the gradients, and return it."""
        beta = self._settings.momentum
        self._momenta[name] = beta * self._momenta[name] + (1 - beta) * gradient
        return self._momenta[name]

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the momenta, the vectors and AdamW's moments."""
        yield from super().state()
        yield from ((f"{name}.{LEFT}", left) for name, left in self._left.items())

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load them."""
        self._left = {name: arrays[f"{name}.{LEFT}"] for name in self._matrices}
        super().load(arrays, updates)

    def held(self) -> object:
        """Return all arrays that an update changes."""
        return [self._left, super().held()]
