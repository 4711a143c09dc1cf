"""Spectron: Muon whose updates are as long as the factors' largest singular values allow."""

from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx

from lost.backends.mlx.optim.muon import Muon
from lost.backends.mlx.optim.stacks import Names, Stacks, parted, stacked
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.spectron import LEFT, factors


class Spectron(Muon):
    """Implements `StackedUpdate`; arguments as of `Muon`."""

    def __init__(self, settings: OptimizerConfig, parameters: Stacks, table: Mapping[str, Parameter]) -> None:
        super().__init__(settings, parameters, table)
        self._left = {names: [mx.ones(parameters[names].shape[:2])] for names in self._momenta}
        places = {name: place for place, name in enumerate(name for names in self._momenta for name in names)}
        self._factors = {
            names: [[places.get(each, len(places)) for each in factors(name) or ("", "")] for name in names]
            for names in self._momenta
        }

    def _lengths(self, lr: mx.array, parameters: Stacks) -> Callable[[Names, tuple[int, ...]], mx.array]:
        """Return lr / (1 + both factors' largest singular values); these take a step of power iteration."""
        sigmas = []
        for names, held in self._left.items():
            right = held[0][:, None] @ parameters[names]
            right = right / mx.maximum(mx.linalg.norm(right, axis=-1, keepdims=True), 1e-30)
            image = (parameters[names] @ right.swapaxes(-1, -2))[..., 0]
            sigma = mx.linalg.norm(image, axis=-1, keepdims=True)
            held[0] = mx.where(sigma > 0, image / sigma, held[0])
            sigmas.append(sigma[:, 0])
        beside = mx.concatenate([*sigmas, mx.zeros(1)])  # the last, for a matrix that is no factor
        return lambda names, shape: (lr / (1 + beside[mx.array(self._factors[names])].sum(axis=-1)))[:, None, None]

    def _direction(self, names: Names, gradient: mx.array) -> mx.array:
        """Update means of the gradients, and return them."""
        beta, momenta = self._settings.momentum, self._momenta[names]
        momenta[0] = beta * momenta[0] + (1 - beta) * gradient
        return momenta[0]

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the momenta, the vectors and AdamW's moments."""
        yield from super().state()
        yield from parted({names: left[0] for names, left in self._left.items()}, f".{LEFT}")

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load them."""
        for names, stack in stacked(arrays, self._left, f".{LEFT}").items():
            self._left[names][0] = stack
        super().load(arrays, updates)

    def held(self) -> object:
        """Return all arrays that an update changes."""
        return [*self._left.values(), super().held()]
