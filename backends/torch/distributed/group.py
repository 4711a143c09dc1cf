"""Several processes under torchrun: how they meet, what they tell each other, and what each holds of the model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ml_dtypes
import numpy as np
import torch
import torch.distributed as dist

from lost.backends.torch.arrays import to_tensor
from lost.distributed.group import SingleProcess, Workers, single_process
from lost.errors import BackendError, WorkerLostError
from lost.storage.arrays import NamedArrays

_DTYPES = {each.name: each for each in (np.dtype("float32"), np.dtype("int32"), np.dtype(ml_dtypes.bfloat16))}

_GREETING = timedelta(seconds=20)


def join() -> "SingleProcess | TorchGroup":
    """Return the workers that torchrun started, or this process alone.

    Under torchrun there is a group even of one: the same path, on one device as on many.

    Raises:
        BackendError: they can't reach each other, or another launcher started them.
    """
    if not dist.is_torchelastic_launched():
        return single_process()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                # The launcher's own, which stood before this process did: if it doesn't answer, nobody will.
                dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_GREETING)  # type: ignore[attr-defined]
            dist.init_process_group(backend)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"the workers of torchrun can't connect: {error}; expected every one to reach {host}:{port}; see "
                "docs/cluster.md"
            ) from None
    return TorchGroup()


class TorchGroup:
    """One of the processes that torchrun started. Implements `lost.distributed.group.Workers`.

    All see the run folder: each reads and writes its own part of a checkpoint. What is said here goes over gloo between
    CPUs, whatever carries the gradients.
    """

    sigterm_asks = True  # torchrun kills what hasn't left after 30 seconds

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.num_readers = self.world_size
        self._group = dist.new_group(backend="gloo")

    def broadcast(self, text: str) -> str:
        """Return rank 0's text."""
        with worker_errors(self):
            box = [text]
            dist.broadcast_object_list(box, 0, self._group)
        return box[0]

    def all_gather(self, text: str) -> list[str]:
        """Return everyone's text."""
        with worker_errors(self):
            found = [""] * self.world_size
            dist.all_gather_object(found, text, self._group)
        return found

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
        """Yield the arrays that all of them bring, each whole, to every one of them."""
        own = iter(arrays)
        while True:
            mine = next(own, None)
            with worker_errors(self):
                heads: list[tuple[str, tuple[int, ...], str] | None] = [None] * self.world_size
                head = (mine[0], mine[1].shape, mine[1].dtype.name) if mine else None
                dist.all_gather_object(heads, head, self._group)
            if not any(heads):
                return
            for rank, found in enumerate(heads):
                if found:
                    name, shape, dtype = found
                    array = np.empty(shape, _DTYPES[dtype])
                    if mine and rank == self.rank:
                        array = np.ascontiguousarray(mine[1])
                    with worker_errors(self):
                        dist.broadcast(to_tensor(array), rank, self._group)
                    yield name, array

    def close(self) -> None:
        """Part once all are done: the one that holds the meeting place must not go first."""
        with worker_errors(self):
            dist.barrier(self._group)
        dist.destroy_process_group()


@contextmanager
def worker_errors(workers: Workers) -> Iterator[None]:
    """Say in words that a worker is gone, where PyTorch's communication fails."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        raise WorkerLostError(
            f"a worker of this run is gone, as rank {workers.rank} of {workers.world_size} found; nothing was saved "
            "since; start the same command again to go on from the last checkpoint"
        ) from error
