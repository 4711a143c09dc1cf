"""Muon: matrices of one shape are orthogonalized in one batched product; the rest is AdamW's."""

from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx

from lost.backends.mlx.arrays import DTYPES
from lost.backends.mlx.optim.adamw import AdamW
from lost.backends.mlx.optim.base import Named
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.muon import COEFFICIENTS, MOMENTUM, RUNS, is_orthogonalized, pieces, scale


class Muon:
    """Implements `Update`.

    Not compiled: on a CPU the peak of memory was a third higher then, and most of its time is in products.

    Args:
        settings: of the run.
        parameters: the trained ones, by name.
        table: the parameter table.
    """

    compiles = False

    def __init__(self, settings: OptimizerConfig, parameters: Named, table: Mapping[str, Parameter]) -> None:
        self._settings, optimizer = settings, KINDS[settings.name](settings)
        self._matrices = [name for name in parameters if is_orthogonalized(table[name])]
        others = {name: each for name, each in parameters.items() if not is_orthogonalized(table[name])}
        self._adamw = AdamW(settings, others, table)
        self._shares = {name: optimizer.group(table[name]) for name in self._matrices}
        self._pieces = {name: list(pieces(table[name], settings.split_up)) for name in self._matrices}
        self._momenta = {name: mx.zeros_like(parameters[name]) for name in self._matrices}

    def step(self, lr: mx.array, parameters: Named, gradients: Named) -> Named:
        """Return parameters after an update."""
        lengths = self._lengths(lr, parameters)
        moved = self._adamw.step(lr, parameters, gradients)
        groups: dict[tuple[int, ...], list[tuple[str, mx.array]]] = {}
        for name in self._matrices:
            direction = self._direction(name, gradients[name])
            for piece in self._pieces[name]:
                part = direction[:, piece]
                groups.setdefault(part.shape, []).append((name, part))
        moves: dict[str, list[mx.array]] = {name: [] for name in self._matrices}
        for shape, group in groups.items():
            stack = mx.stack([part for _, part in group]).astype(DTYPES[self._settings.orthogonalize_dtype])
            for (name, _), result in zip(group, newton_schulz(stack).astype(mx.float32), strict=True):
                moves[name].append(lengths(name, shape) * result)
        for name in self._matrices:
            move = moves[name][0] if len(moves[name]) == 1 else mx.concatenate(moves[name], axis=1)
            share = self._shares[name]
            moved[name] = parameters[name] * (1 - lr * share.rate * share.weight_decay) - move
        return moved

    def _lengths(self, lr: mx.array, parameters: Named) -> Callable[[str, tuple[int, ...]], mx.array]:
        """Return what says, for the name and the shape of an orthogonal matrix, what it is multiplied with."""
        return lambda name, shape: lr * self._shares[name].rate * scale(self._settings.scale, *shape)

    def _direction(self, name: str, gradient: mx.array) -> mx.array:
        """Update a momentum, and return what is to be orthogonalized."""
        beta = self._settings.momentum
        self._momenta[name] = beta * self._momenta[name] + gradient
        return gradient + beta * self._momenta[name]

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the momenta and AdamW's moments."""
        yield from ((f"{name}.{MOMENTUM}", self._momenta[name]) for name in self._matrices)
        yield from self._adamw.state()

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Take what `state` yields."""
        self._momenta = {name: arrays[f"{name}.{MOMENTUM}"] for name in self._matrices}
        self._adamw.load(arrays, updates)

    def held(self) -> object:
        """Return all arrays that an update changes."""
        return [self._momenta, self._adamw.held()]


def newton_schulz(x: mx.array) -> mx.array:
    """Return matrices (n, rows, columns) with their singular values near 1, as `lost.optim.muon` has it."""
    if x.shape[-2] < x.shape[-1]:
        return newton_schulz(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    a, b, c = COEFFICIENTS
    runs = RUNS if x.dtype == mx.float32 else (1,) * sum(RUNS)  # in bfloat16 the Gram matrix alone isn't exact enough
    identity = mx.eye(x.shape[-1], dtype=x.dtype)
    x = x / mx.maximum(mx.linalg.norm(x, axis=[-2, -1], keepdims=True), 1e-15)
    for run in runs:
        gram = x.swapaxes(-1, -2) @ x
        product = factor = a * identity + b * gram + c * (gram @ gram)
        for _ in range(run - 1):
            gram = factor @ gram @ factor
            gram = (gram + gram.swapaxes(-1, -2)) / 2
            factor = a * identity + b * gram + c * (gram @ gram)
            product = product @ factor
        x = x @ product
    return x
