"""The protocol of an optimizer's update in PyTorch, and its parameter groups."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lost.config import OptimizerConfig
from lost.model.parameters import Parameter


class Update(Protocol):
    """An optimizer's update; created from (settings, trained tensors by name, parameter table)."""

    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`, a bool on the device: then nothing changes."""

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays that `lost.optim.state_shapes` lists; nothing before the first step."""

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays that `state` yields, as they were after `updates` updates."""


def groups(
    settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter]
) -> list[dict[str, Any]]:
    """Return two groups: parameters with weight decay, and those without."""
    decaying = [tensor for name, tensor in tensors.items() if table[name].decays]
    others = [tensor for name, tensor in tensors.items() if not table[name].decays]
    return [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
