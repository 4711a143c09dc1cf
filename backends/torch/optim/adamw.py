"""AdamW: PyTorch's fused update, skipped by a flag on the device."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.base import Rows, groups
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS


class AdamW:
    """Implements `Update`.

    Args:
        settings: of the run.
        tensors: the trained ones, by name.
        table: the parameter table.
        rows: unused: they are updated independently of each other.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._tensors = tensors
        self._optimizer = torch.optim.AdamW(
            groups(settings, tensors, table), lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
        )

    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        # Attributes that PyTorch's GradScaler sets, and the fused update reads on the device.
        self._optimizer.grad_scale, self._optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        self._optimizer.step()

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments; on CPU, views."""
        for name, tensor in self._tensors.items():
            state = self._optimizer.state[tensor]
            yield from ((f"{name}.{moment}", to_array(state[moment])) for moment in MOMENTS if moment in state)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the moments; the step counter is on the device."""
        for tensor in self._tensors.values():
            self._optimizer.state[tensor] = {"step": torch.tensor(float(updates), device=tensor.device)}
        for name, array in arrays:
            owner, _, moment = name.rpartition(".")
            tensor = self._tensors[owner]
            self._optimizer.state[tensor][moment] = to_tensor(array).to(tensor.device, tensor.dtype, copy=True)
