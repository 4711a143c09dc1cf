"""The process group under torchrun: rendezvous and communication between its workers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ml_dtypes
import numpy as np
import torch
import torch.distributed as dist

from lost.backends.torch import devices
from lost.backends.torch.arrays import to_tensor
from lost.distributed.group import SingleProcess, Workers, lost_contact, single_process
from lost.errors import BackendError, OutOfMemoryError
from lost.storage.arrays import NamedArrays

_DTYPES = {each.name: each for each in (np.dtype("float32"), np.dtype("int32"), np.dtype(ml_dtypes.bfloat16))}

_CONNECTING = timedelta(seconds=20)
# How long one worker waits for another: between CPUs while that one computes initial weights, decomposes those of a
# model that is adapted, or checks a checkpoint alone (if it ends instead, gloo says so at once), and in a collective of
# NCCL while it compiles or reads its part of a step. Then NCCL ends the process.
_ALONE, _IN_A_STEP = timedelta(hours=2), timedelta(minutes=10)


def join(device: str = "auto") -> "SingleProcess | TorchGroup":
    """Return the workers that torchrun started, or this process alone.

    Under torchrun even a single process forms a group, so that one device takes the same path as many.

    Args:
        device: as `resolve` takes it; on a CUDA device NCCL connects at once.

    Raises:
        BackendError: they can't reach each other, or another launcher started them.
    """
    if not dist.is_torchelastic_launched():
        return single_process()
    if not dist.is_initialized():
        device = devices.resolve(device)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                # The launcher's store, which is older than this process: if it doesn't answer, nobody will.
                dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_CONNECTING)  # type: ignore[attr-defined]
            if device.startswith("cuda"):
                dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_IN_A_STEP, device_id=torch.device(device))
            else:
                dist.init_process_group("gloo", timeout=_ALONE)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"the workers of torchrun can't connect: {error}; expected each to reach {host}:{port}; see "
                "docs/cluster.md"
            ) from None
    return TorchGroup()


class TorchGroup:
    """One of the processes that torchrun started. Implements `lost.distributed.group.Workers`.

    All of them see the run folder; each reads and writes its own part of a checkpoint. The methods communicate between
    CPUs over gloo, whatever backend reduces the gradients.
    """

    sigterm_asks = True  # torchrun kills workers that haven't exited after 30 seconds

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.num_readers = self.world_size
        self._group = dist.new_group(backend="gloo", timeout=_ALONE)

    def broadcast(self, text: str) -> str:
        """Return rank 0's text."""
        with worker_errors(self):
            box = [text]
            dist.broadcast_object_list(box, 0, self._group)
        return box[0]

    def all_gather(self, text: str) -> list[str]:
        """Return everyone's text."""
        with worker_errors(self):
            texts = [""] * self.world_size
            dist.all_gather_object(texts, text, self._group)
        return texts

    def any(self, flag: bool) -> bool:
        """Say whether the flag is up on any of them."""
        return self.all_reduce(float(flag)) > 0

    def all_reduce(self, value: float) -> float:
        """Return the sum over all, in float64."""
        with worker_errors(self):
            box = torch.tensor(value, dtype=torch.float64)
            dist.all_reduce(box, group=self._group)
        return box.item()

    def spread(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield, on every worker, the arrays that all workers contribute, each whole."""
        local = iter(arrays)
        while True:
            mine = next(local, None)
            with worker_errors(self):
                heads: list[tuple[str, tuple[int, ...], str] | None] = [None] * self.world_size
                head = (mine[0], mine[1].shape, mine[1].dtype.name) if mine else None
                dist.all_gather_object(heads, head, self._group)
            if not any(heads):
                return
            for rank, head in enumerate(heads):
                if head:
                    name, shape, dtype = head
                    array = np.empty(shape, _DTYPES[dtype])
                    if mine and rank == self.rank:
                        array = np.ascontiguousarray(mine[1])
                    with worker_errors(self):
                        dist.broadcast(to_tensor(array), rank, self._group)
                    yield name, array

    def close(self) -> None:
        """Leave the group once all are done: the worker that hosts the store must not exit first."""
        with worker_errors(self):
            dist.barrier(self._group)
        dist.destroy_process_group()


@contextmanager
def worker_errors(workers: Workers) -> Iterator[None]:
    """Turn failures of PyTorch's communication into a WorkerLostError, but not this worker's want of memory for it."""
    try:
        yield
    except RuntimeError as error:
        told = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if not told or OutOfMemoryError.caused(error):
            raise
        raise lost_contact(workers) from error
