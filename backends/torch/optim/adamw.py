"""AdamW: PyTorch's fused update, skipped by a flag on the device."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.base import Rows, groups
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS


class AdamW:
    """Implements `Update`, by the function under `torch.optim.AdamW`.

    The class would import PyTorch's compiler, which takes nearly as long as PyTorch itself.

    Args:
        settings: of the run.
        tensors: the trained ones, by name.
        table: the parameter table.
        rows: unused: they are updated independently of each other.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._settings, self._tensors = settings, tensors
        self._groups = groups(settings, tensors, table)
        self._states: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`."""
        beta1, beta2 = self._settings.betas
        for group in self._groups:
            moved = {tensor: tensor.grad for tensor in group["params"] if tensor.grad is not None}
            states = [self._states.get(tensor) or self._begin(tensor, 0) for tensor in moved]
            adamw(
                list(moved),
                list(moved.values()),
                [state[MOMENTS[0]] for state in states],
                [state[MOMENTS[1]] for state in states],
                [],  # of a variant
                [state["step"] for state in states],
                fused=True,
                found_inf=skip.float(),  # where PyTorch's GradScaler says so; read on the device
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=lr * group["rate"],
                weight_decay=group["weight_decay"],
                eps=self._settings.eps,
                maximize=False,
            )

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments; on CPU, views."""
        for name, tensor in self._tensors.items():
            if tensor in self._states:
                yield from ((f"{name}.{moment}", to_array(self._states[tensor][moment])) for moment in MOMENTS)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the moments; the step counter is on the device."""
        for tensor in self._tensors.values():
            self._begin(tensor, updates)
        for name, array in arrays:
            owner, _, moment = name.rpartition(".")
            self._states[self._tensors[owner]][moment].copy_(to_tensor(array))

    def _begin(self, tensor: Tensor, updates: int) -> dict[str, Tensor]:
        """Make the state of a tensor, moments of zeros, after some updates."""
        count = torch.tensor(float(updates), device=tensor.device)
        self._states[tensor] = {"step": count, **{moment: torch.zeros_like(tensor) for moment in MOMENTS}}
        return self._states[tensor]
