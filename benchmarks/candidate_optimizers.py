"""Optimizers with small states that were tried and are no part of `lost`, for studies; PyTorch only.

    sgd_sai    momentum SGD; a tensor's rate is times its first gradient's |g| / deviation (SGD-SaI, arXiv 2412.11768)
    frugal     Adam for a quarter of each matrix's columns, other ones every 50 updates, and the sign of the gradient
               for the rest of them (FRUGAL, arXiv 2411.07837); AdamW for the embedding, the head and the norms

usage, as a study's `program`: python benchmarks/candidate_optimizers.py train ...
"""

import sys
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.adamw import AdamW as TorchAdamW
from lost.backends.torch.optim.base import Rows
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.adamw import MOMENTS, AdamW
from lost.optim.muon import MOMENTUM, is_orthogonalized

RATIO = "signal_to_noise"
TURN, PARTS = 50, 4  # updates that a part of the columns keeps its moments for, and the parts


class SgdSai(AdamW):
    """A momentum and a number for each tensor."""

    arrays = (MOMENTUM, RATIO)
    never_negative = ()
    updates: ClassVar[Mapping[str, str]] = {"torch": "candidate_optimizers:TorchSgdSai"}

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the shapes of both."""
        return {MOMENTUM: row.shape, RATIO: (1,)}


class Frugal(AdamW):
    """Moments for some columns of matrices inside the blocks, and AdamW's for all else."""

    updates: ClassVar[Mapping[str, str]] = {"torch": "candidate_optimizers:TorchFrugal"}

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the moments."""
        rows = (row.shape[0], -(-row.shape[1] // PARTS)) if is_orthogonalized(row) else row.shape
        return dict.fromkeys(MOMENTS, rows)


class TorchSgdSai:
    """Implements `Update`."""

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._settings, self._tensors = settings, tensors
        optimizer = KINDS[settings.name](settings)
        self._groups = {name: optimizer.group(table[name]) for name in tensors}
        self._states: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`; here none can be skipped."""
        assert not skip.item()
        for name, tensor in self._tensors.items():
            gradient = tensor.grad
            assert gradient is not None
            if name not in self._states:
                ratio = gradient.norm() / (gradient.std() + self._settings.eps)
                self._states[name] = {MOMENTUM: gradient.clone(), RATIO: ratio.reshape(1)}
            else:
                self._states[name][MOMENTUM].lerp_(gradient, 1 - self._settings.momentum)
            state, group = self._states[name], self._groups[name]
            tensor.mul_(1 - lr * group.rate * group.weight_decay)
            tensor.sub_(state[MOMENTUM] * (lr * group.rate * state[RATIO]))

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays."""
        for name, state in self._states.items():
            yield from ((f"{name}.{each}", to_array(state[each])) for each in (MOMENTUM, RATIO))

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays."""
        for name, array in arrays:
            owner, _, kind = name.rpartition(".")
            self._states.setdefault(owner, {})[kind] = to_tensor(array).clone()


class TorchFrugal:
    """Implements `Update`."""

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._settings, self._updates = settings, 0
        self._matrices = {name: tensor for name, tensor in tensors.items() if is_orthogonalized(table[name])}
        others = {name: tensor for name, tensor in tensors.items() if name not in self._matrices}
        self._adamw = TorchAdamW(settings, others, table, rows)
        optimizer = KINDS[settings.name](settings)
        self._groups = {name: optimizer.group(table[name]) for name in self._matrices}
        self._moments = {
            name: [tensor.new_zeros(tensor.shape[0], -(-tensor.shape[1] // PARTS)) for _ in MOMENTS]
            for name, tensor in self._matrices.items()
        }

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`; here none can be skipped."""
        assert not skip.item()
        self._adamw.step(lr, skip)
        turn, within = divmod(self._updates, TURN)
        self._updates += 1
        first_beta, second_beta = self._settings.betas
        for name, tensor in self._matrices.items():
            gradient, group, moments = tensor.grad, self._groups[name], self._moments[name]
            assert gradient is not None
            if within == 0:
                for moment in moments:
                    moment.zero_()
            columns = slice(turn % PARTS, None, PARTS)
            own = gradient[:, columns]
            first, second = (moment[:, : own.shape[1]] for moment in moments)
            first.lerp_(own, 1 - first_beta)
            second.lerp_(own.square(), 1 - second_beta)
            scale = (second / (1 - second_beta ** (within + 1))).sqrt() + self._settings.eps
            move = gradient.sign()
            move[:, columns] = first / (1 - first_beta ** (within + 1)) / scale
            tensor.mul_(1 - lr * group.rate * group.weight_decay).sub_(move, alpha=lr * group.rate)

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments."""
        yield from self._adamw.state()
        if self._updates:
            for name, moments in self._moments.items():
                yield from ((f"{name}.{each}", to_array(held)) for each, held in zip(MOMENTS, moments, strict=True))

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the moments."""
        self._updates = updates

        def others() -> Iterator[tuple[str, np.ndarray]]:
            for name, array in arrays:
                owner, _, kind = name.rpartition(".")
                if owner in self._moments:
                    self._moments[owner][MOMENTS.index(kind)].copy_(to_tensor(array))
                else:
                    yield name, array

        self._adamw.load(others(), updates)


KINDS.update(sgd_sai=SgdSai, frugal=Frugal)

if __name__ == "__main__":
    from lost.cli.main import main

    sys.exit(main())
