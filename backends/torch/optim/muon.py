"""Muon: matrices of one shape are orthogonalized in one batched product; the rest is AdamW's."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import DTYPES, to_array, to_tensor
from lost.backends.torch.optim.adamw import AdamW
from lost.backends.torch.optim.base import Rows
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.muon import COEFFICIENTS, MOMENTUM, RUNS, at_once, is_orthogonalized, pieces, scale

Shape = tuple[int, int]


class Muon:
    """Implements `Update`.

    Matrices, or with `split_up` parts of them, are grouped by shape, and the momenta of a group are one tensor.

    Args:
        settings: of the run.
        tensors: the trained ones, by name: all of each, or some of its rows.
        table: the parameter table.
        rows: their distribution over processes.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._settings, self._rows, self._begun = settings, rows, False
        self._matrices = {name: tensor for name, tensor in tensors.items() if is_orthogonalized(table[name])}
        others = {name: tensor for name, tensor in tensors.items() if name not in self._matrices}
        self._adamw = AdamW(settings, others, table, rows)
        self._groups: dict[Shape, list[tuple[str, slice]]] = {}
        for name in self._matrices:
            for columns in pieces(table[name], settings.split_up):
                shape = (table[name].shape[0], columns.stop - columns.start)
                self._groups.setdefault(shape, []).append((name, columns))
        optimizer = KINDS[settings.name](settings)
        self._shares = {shape: optimizer.group(table[group[0][0]]) for shape, group in self._groups.items()}
        self._momenta = {shape: self._zeros(group) for shape, group in self._groups.items()}

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`."""
        self._begun = True
        self._adamw.step(lr, skip)
        lengths = self._lengths(lr, skip)
        for shape in self._groups:
            decay = lr * self._shares[shape].rate * self._shares[shape].weight_decay
            kept = torch.where(skip, 1.0, 1.0 - decay)
            lengths[shape] = torch.where(skip, 0.0, lengths[shape])
            for turn in self._turns(shape):  # by a method, so that nothing of one is held in the next
                self._update(shape, turn, kept, lengths[shape][turn], skip)

    def _update(self, shape: Shape, turn: slice, kept: Tensor, lengths: Tensor, skip: Tensor) -> None:
        group, momenta = self._groups[shape][turn], self._momenta[shape][turn]
        gradients = self._stacked(group, gradients=True).masked_fill_(skip, 0.0)  # what is skipped may not be finite
        moves = self._orthogonal(self._direction(gradients, momenta, skip), shape).mul_(lengths)
        weights = [self._matrices[name][:, columns] for name, columns in group]
        torch._foreach_mul_(weights, kept)
        torch._foreach_sub_(weights, list(moves.unbind()))

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the momenta and AdamW's moments; on CPU views, where matrices aren't split."""
        if self._begun:
            for name, parts in self._parts().items():
                momentum = [part for _, part in parts]
                yield f"{name}.{MOMENTUM}", to_array(torch.cat(momentum, dim=1) if len(parts) > 1 else momentum[0])
        yield from self._adamw.state()

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays that `state` yields."""
        self._begun, momenta = True, self._parts()

        def others() -> Iterator[tuple[str, np.ndarray]]:
            for name, array in arrays:
                owner, _, kind = name.rpartition(".")
                if kind != MOMENTUM:
                    yield name, array
                    continue
                for columns, part in momenta[owner]:
                    part.copy_(to_tensor(array)[:, columns])

        self._adamw.load(others(), updates)

    def _lengths(self, lr: float, skip: Tensor) -> dict[Shape, Tensor]:
        """Return what orthogonal matrices are multiplied with, (n, 1, 1) by group."""
        lengths = {}
        for shape, group in self._groups.items():
            length = lr * self._shares[shape].rate * scale(self._settings.scale, *shape)
            lengths[shape] = torch.full((len(group), 1, 1), length, device=skip.device)
        return lengths

    def _direction(self, gradients: Tensor, momentum: Tensor, skip: Tensor) -> Tensor:
        """Update the momentum of some matrices, and return what is to be orthogonalized.

        Args:
            gradients: of them, zeros if `skip`; changed.
            momentum: of them.
            skip: whether nothing is to change.
        """
        beta = self._settings.momentum
        momentum.mul_(torch.where(skip, 1.0, beta)).add_(gradients)
        return gradients.add_(momentum, alpha=beta)

    def _turns(self, shape: Shape) -> Iterator[slice]:
        """Yield which matrices of a group are updated at a time: all at once would take several times their memory."""
        count = at_once(shape, self._rows.shards)
        yield from (slice(first, first + count) for first in range(0, len(self._groups[shape]), count))

    def _parts(self) -> dict[str, list[tuple[slice, Tensor]]]:
        """Return the momenta of each matrix, views by columns in their order."""
        parts: dict[str, list[tuple[slice, Tensor]]] = {name: [] for name in self._matrices}
        for shape, group in self._groups.items():
            for (name, columns), momentum in zip(group, self._momenta[shape], strict=True):
                parts[name].append((columns, momentum))
        return {name: sorted(each, key=lambda part: part[0].start) for name, each in parts.items()}

    def _zeros(self, group: list[tuple[str, slice]]) -> Tensor:
        """Return zeros as `_stacked` would stack the matrices, without doing so."""
        name, columns = group[0]
        one = self._matrices[name][:, columns]
        return one.new_zeros((len(group), *one.shape))

    def _stacked(self, group: list[tuple[str, slice]], gradients: bool = False) -> Tensor:
        """Return the matrices of a group, or their gradients, as one tensor (n, rows held here, columns)."""
        parts = []
        for name, columns in group:
            tensor = self._matrices[name].grad if gradients else self._matrices[name]
            assert tensor is not None
            parts.append(tensor[:, columns])
        return torch.stack(parts)

    def _orthogonal(self, x: Tensor, shape: Shape) -> Tensor:
        """Orthogonalize a stack of matrices, of which this process may hold some rows.

        Where it does, each process is sent the whole of some matrices, computes those, and sends their rows back: as
        many bytes as the rows held, twice, and no process computes what another does.
        """
        whole = self._rows.to_owners(x.to(DTYPES[self._settings.orthogonalize_dtype]), shape[0])
        if shape[0] >= shape[1]:
            return self._rows.to_rows(newton_schulz(whole), len(x)).float()
        return self._rows.to_rows(newton_schulz(whole.mT).mT, len(x)).float()


def newton_schulz(x: Tensor) -> Tensor:
    """Return tall matrices (n, rows, columns) with their singular values near 1, as `lost.optim.muon` has it."""
    runs = RUNS if x.dtype == torch.float32 else (1,) * sum(RUNS)  # bfloat16 is too coarse for Gram matrices alone
    for index, run in enumerate(runs):
        gram = x.mT @ x
        length: Tensor | float = 1.0
        if not index:
            square = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].clamp(min=1e-30)
            gram, length = gram / square, square.sqrt()
        product = factor = _factor(gram)
        for _ in range(run - 1):
            gram = factor @ gram @ factor
            factor = _factor(gram)
            product = product @ factor
        x = x @ product.div_(length)
    return x


def _factor(gram: Tensor) -> Tensor:
    """Return a + b G + c G^2: what an iteration multiplies matrices with, of their Gram matrices."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
