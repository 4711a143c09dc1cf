"""The protocol of an optimizer's update in PyTorch, and its parameter groups."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.base import Group


class Rows(Protocol):
    """The distribution of matrices over processes: each process holds some of their rows, or all of them.

    Attributes:
        shards: number of processes that share the rows.
    """

    shards: int

    def sum_rows(self, gram: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes that hold the other rows of the same matrices."""

    def to_owners(self, stack: Tensor, rows: int) -> Tensor:
        """Return the whole matrices that this process owns, its share of them, of (n, rows held here, columns).

        Zeros make shares equal: (n over the processes, rounded up; `rows`; columns).
        """

    def to_rows(self, owned: Tensor, count: int) -> Tensor:
        """Return the rows held here of all `count` matrices, of those that each process owns: undo `to_owners`."""


class Update(Protocol):
    """An optimizer's update; created from (settings, trained tensors by name, parameter table, `Rows`)."""

    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`, a bool on the device: then nothing changes."""

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays that `lost.optim.state_shapes` lists; nothing before the first step."""

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays that `state` yields, as they were after `updates` updates."""


def groups(
    settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter]
) -> list[dict[str, Any]]:
    """Return PyTorch's parameter groups: tensors of one learning rate, relative to the main one, and one decay."""
    optimizer = KINDS[settings.name](settings)
    by_group: dict[Group, list[Tensor]] = {}
    for name, tensor in tensors.items():
        by_group.setdefault(optimizer.group(table[name]), []).append(tensor)
    return [{"params": params, **group._asdict()} for group, params in by_group.items()]
