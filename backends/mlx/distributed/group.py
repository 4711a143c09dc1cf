"""The process group under `mlx.launch`: every worker has a copy of the model and a share of the batch."""

import os
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn import average_gradients

from lost.distributed.group import SingleProcess, lost_contact, single_process
from lost.distributed.launcher import lone_of_mlx
from lost.errors import BackendError, GpuStoppedError, OutOfMemoryError

Tree = Any  # arrays in nested dictionaries and lists, as `mlx.nn.Module.parameters` gives them


def join(device: str = "auto") -> "SingleProcess | MlxGroup":
    """Return the workers that `mlx.launch` started, or this process alone.

    Args:
        device: any: they communicate between CPUs.

    Raises:
        BackendError: they can't reach each other, or another launcher started them.
    """
    if "MLX_RANK" not in os.environ:
        return single_process()
    if lone_of_mlx():
        return SingleProcess()
    try:
        return MlxGroup(mx.distributed.init(strict=True))
    except RuntimeError as error:
        raise BackendError(
            f"the workers of mlx.launch can't connect: {error}; expected every host in the host file to be reachable; "
            "see docs/mac.md"
        ) from None


class MlxGroup:
    """One of the processes that `mlx.launch` started. Implements `lost.distributed.group.Workers`.

    Everything but gradients is summed on the CPU, where MLX has float64.
    """

    num_readers = 1
    sigterm_asks = False  # mlx.launch sends SIGTERM when a worker failed, for which the ring may wait forever

    def __init__(self, group: mx.distributed.Group) -> None:
        self._group, self.rank, self.world_size = group, group.rank(), group.size()

    def broadcast(self, text: str) -> str:
        """Return rank 0's text."""
        return self._from(0, text)

    def all_gather(self, text: str) -> list[str]:
        """Return everyone's text."""
        return [self._from(rank, text) for rank in range(self.world_size)]

    def close(self) -> None:
        """Do nothing: MLX closes its group by itself."""

    def _from(self, rank: int, text: str) -> str:
        content = text.encode()
        size = int(self.all_reduce(len(content) if self.rank == rank else 0))
        row = np.zeros(size, np.uint8)
        if self.rank == rank:
            row[:] = np.frombuffer(content, np.uint8)
        received = np.asarray(self._sum(mx.array(row))).tobytes()
        self.all_reduce(0)  # notices if a worker was lost meanwhile
        return received.decode()

    def any(self, flag: bool) -> bool:
        """Say whether the flag is up on any of them."""
        return self.all_reduce(float(flag)) > 0

    def all_reduce(self, value: float) -> float:
        """Return the sum over all, in float64."""
        with mx.stream(mx.cpu):
            total, present = np.asarray(self._sum(mx.array([value, 1.0], mx.float64)))
        if present != self.world_size:  # MLX's ring may go on without a worker: noticed here
            raise lost_contact(self)
        return float(total)

    def spread(self, arrays: dict[str, mx.array]) -> Iterator[tuple[str, mx.array]]:
        """Yield rank 0's arrays, bit for bit, one by one; the other ranks' only give shapes and types."""
        for name, array in arrays.items():
            bits = array.view(mx.uint16 if array.itemsize == 2 else mx.uint32)
            yield name, self._sum(bits if self.rank == 0 else mx.zeros_like(bits)).view(array.dtype)

    def reduce(self, gradients: Tree, loss: mx.array) -> tuple[Tree, mx.array]:
        """Return the mean of the workers' gradients and the sum of their losses.

        All of it on the CPU: a GPU that waits for a slower worker is taken for stuck, and stopped.
        """
        with mx.stream(mx.cpu):
            mean, total = average_gradients(gradients, self._group), mx.distributed.all_sum(loss, group=self._group)
            self._eval(mean, total)
        return mean, total

    def _sum(self, value: mx.array) -> mx.array:
        total = mx.distributed.all_sum(value, group=self._group, stream=mx.cpu)
        self._eval(total)
        return total

    def _eval(self, *values: Tree) -> None:
        try:
            mx.eval(*values)
        except RuntimeError as error:
            if OutOfMemoryError.caused(error) or GpuStoppedError.caused(error):
                raise  # it is this worker that can't go on
            raise lost_contact(self) from error
