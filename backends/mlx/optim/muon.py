"""Muon: matrices of one kind are orthogonalized in one batched product; the rest is AdamW's."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import mlx.core as mx

from lost.backends.mlx.arrays import DTYPES, ends
from lost.backends.mlx.kernels import checkpointing
from lost.backends.mlx.optim.adamw import AdamW
from lost.backends.mlx.optim.stacks import Names, Stacks, parted, stacked
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.muon import AT_ONCE, COEFFICIENTS, MOMENTUM, RUNS, is_orthogonalized, pieces, scale


class Muon:
    """Implements `StackedUpdate`.

    Args:
        settings: of the run.
        parameters: the trained ones.
        table: the parameter table.
    """

    compiles = True
    stacks = "always"

    def __init__(self, settings: OptimizerConfig, parameters: Stacks, table: Mapping[str, Parameter]) -> None:
        self._settings, optimizer = settings, KINDS[settings.name](settings)
        rows = {names: table[names[0]] for names in parameters}
        matrices = [names for names, row in rows.items() if is_orthogonalized(row)]
        others = {names: each for names, each in parameters.items() if names not in matrices}
        self._adamw = AdamW(settings, others, table)
        self._shares = {names: optimizer.group(rows[names]) for names in matrices}
        self._pieces = {names: list(pieces(rows[names], settings.split_up)) for names in matrices}
        self._momenta = {names: [mx.zeros_like(parameters[names])] for names in matrices}

    def step(self, lr: mx.array, parameters: Stacks, gradients: Stacks) -> Stacks:
        """Return parameters after an update."""
        lengths = self._lengths(lr, parameters)
        moved = self._adamw.step(lr, parameters, gradients)
        dtype = DTYPES[self._settings.orthogonalize_dtype]
        directions = {names: self._direction(names, gradients[names]) for names in self._shares}
        parts = [directions[names][..., piece] for names, some in self._pieces.items() for piece in some]
        orthogonal = iter(orthogonalized([part.astype(dtype) for part in parts]))
        for names, share in self._shares.items():
            found = [next(orthogonal).astype(mx.float32) for _ in self._pieces[names]]
            moves = [lengths(names, each.shape[-2:]) * each for each in found]
            move = moves[0] if len(moves) == 1 else mx.concatenate(moves, axis=-1)
            moved[names] = parameters[names] * (1 - lr * share.rate * share.weight_decay) - move
        return moved

    def _lengths(self, lr: mx.array, parameters: Stacks) -> Callable[[Names, tuple[int, ...]], mx.array]:
        """Return what says, for a stack and the shape of an orthogonal matrix, what these are multiplied with."""
        return lambda names, shape: lr * self._shares[names].rate * scale(self._settings.scale, *shape)

    def _direction(self, names: Names, gradient: mx.array) -> mx.array:
        """Update momenta, and return what is to be orthogonalized."""
        beta, momenta = self._settings.momentum, self._momenta[names]
        momenta[0] = beta * momenta[0] + gradient
        return gradient + beta * momenta[0]

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the momenta and AdamW's moments."""
        yield from parted({names: momenta[0] for names, momenta in self._momenta.items()}, f".{MOMENTUM}")
        yield from self._adamw.state()

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Take what `state` yields."""
        for names, stack in stacked(arrays, self._momenta, f".{MOMENTUM}").items():
            self._momenta[names][0] = stack
        self._adamw.load(arrays, updates)

    def held(self) -> object:
        """Return all arrays that an update changes."""
        return [*self._momenta.values(), self._adamw.held()]


def orthogonalized(stacks: Sequence[mx.array]) -> list[mx.array]:
    """Return stacks of matrices (n, rows, columns) with their singular values near 1.

    On Metal, where small products wait for their launches, those of one long side are one stack if their short sides
    are near enough: filled up with zeros, which stay zeros. What is more than AT_ONCE is computed one after the other.
    """
    tall = [each if each.shape[1] >= each.shape[2] else each.swapaxes(1, 2) for each in stacks]
    batches: list[list[int]] = []
    for at in sorted(range(len(tall)), key=lambda at: tall[at].shape[1:], reverse=True):
        _, rows, columns = tall[at].shape
        for batch in [] if checkpointing.on_cpu() else batches:
            first, members = tall[batch[0]].shape, sum(len(tall[each]) for each in (*batch, at))
            if rows == first[1] and columns >= 0.8 * first[2] and members * rows * first[2] <= AT_ONCE:
                batch.append(at)
                break
        else:
            batches.append([at])
    found, before = list(stacks), list[mx.array]()
    for batch in batches:
        width = tall[batch[0]].shape[2]
        filled = [mx.pad(tall[at], [(0, 0), (0, 0), (0, width - tall[at].shape[2])]) for at in batch]
        given = mx.concatenate(filled) if len(filled) > 1 else filled[0]
        parts, count = list[mx.array](), max(1, AT_ONCE // (given.shape[1] * given.shape[2]))
        for begin in range(0, len(given), count):
            part = given[begin : begin + count]
            if before and part.size + sum(each.size for each in before) > AT_ONCE:
                part, before = mx.depends(part, before), []
            parts.append(newton_schulz(part))
            before.append(parts[-1])
        results = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        for at, result in zip(batch, mx.split(results, ends([tall[at] for at in batch])), strict=True):
            own = result[..., : tall[at].shape[2]]
            found[at] = own if own.shape == stacks[at].shape else own.swapaxes(1, 2)
    return found


def newton_schulz(x: mx.array) -> mx.array:
    """Return matrices (n, rows, columns) with their singular values near 1, as `lost.optim.muon` has it."""
    if x.shape[-2] < x.shape[-1]:
        return newton_schulz(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    a, b, c = COEFFICIENTS
    runs = RUNS if x.dtype == mx.float32 else (1,) * sum(RUNS)  # in bfloat16 the Gram matrix alone isn't exact enough
    entries = mx.arange(x.shape[-1])
    identity = (entries[:, None] == entries).astype(x.dtype)
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
