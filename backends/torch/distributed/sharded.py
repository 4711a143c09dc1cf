"""A model sharded by rows over several workers (FSDP2, HSDP)."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lost.backends.torch.arrays import DTYPES
from lost.backends.torch.distributed.group import TorchGroup, worker_errors
from lost.backends.torch.model import LostForCausalLM
from lost.config import Config
from lost.distributed.group import model_shards
from lost.planning.cluster import check_sharded
from lost.storage.arrays import NamedArrays


class Sharded:
    """Every worker holds some rows of each weight, its gradient and its moments; blocks are all-gathered as needed.

    The methods of `SingleDevice`. With `train.replicas` the workers form that many groups, each with one copy of the
    model (HSDP).

    Args:
        config: the run.
        workers: all of them make one of these.
        device: this worker's.
        whole_steps: whether weights stay all-gathered from their first use in a step to the last, and gradients are
            reduce-scattered once at its end: less communication, more memory.

    Raises:
        ConfigError: the workers can't form that many groups, the optimizer's state can't be split by rows, or whole
            weights are to be looked at.
    """

    def __init__(self, config: Config, workers: TorchGroup, device: torch.device, whole_steps: bool) -> None:
        self._replicas, self._workers, self._whole_steps = config.train.replicas, workers, whole_steps
        check_sharded(config, workers.world_size)
        self.shards = model_shards(config, workers.world_size)
        sizes, names = (self.shards,), ("shard",)
        if self._replicas > 1:
            sizes, names = (self._replicas, self.shards), ("replicate", "shard")  # type: ignore[assignment]
        with worker_errors(workers):
            self._mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
        self._shard = self._mesh.get_local_rank("shard")
        self.writes = workers.rank < self.shards  # the first group
        self._model: FSDPModule
        self._ends: dict[str, tuple[int, int]] = {}

    def build(self, config: Config, device: torch.device, compiled: bool) -> LostForCausalLM:
        """Make the model as `SingleDevice.build` does; memory is taken only for the rows held here."""
        with torch.device("meta"):
            model = LostForCausalLM(config)
        if compiled:
            model.compile_training()
        stored, computed = DTYPES[config.train.param_dtype], DTYPES[config.train.compute_dtype]
        policy = MixedPrecisionPolicy(
            param_dtype=None if computed == stored else computed, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in model.model.layers:
            fully_shard(block, mesh=self._mesh, mp_policy=policy, reshard_after_forward=not self._whole_steps)
        fully_shard(model, mesh=self._mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "logits")
        model.to_empty(device=device)
        model.model.fill_rotary_tables(config)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            chunk = -(-len(parameter) // self.shards)
            first = min(self._shard * chunk, len(parameter))
            self._ends[name] = (first, first + len(parameter.to_local()))
        assert isinstance(model, FSDPModule)
        self._model = model
        return model

    @property
    def first_rows(self) -> Mapping[str, int]:
        """The first row held here of each parameter."""
        return {name: first for name, (first, _) in self._ends.items()}

    def local_tensor(self, parameter: Tensor) -> Tensor:
        """Return the rows held here."""
        return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()

    def local_rows(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the rows of a whole array that are held here; a copy of its own has all, of moments' scales too."""
        return array[slice(*self._ends[name])] if name in self._ends and self.shards > 1 else array

    def gather(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays that all workers contribute, each whole."""
        return self._workers.spread(arrays)

    def begin_micro_batch(self, last: bool) -> None:
        """Reduce-scatter gradients and free gathered weights now or, with `whole_steps`, after the last micro-batch."""
        self._model.set_requires_gradient_sync(last or not self._whole_steps)
        self._model.set_reshard_after_backward(last or not self._whole_steps)

    def all_reduce(self, squares: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all workers; identical copies count once."""
        both = torch.cat([(squares / self._replicas).flatten(), sums.to(squares.dtype).flatten()])
        dist.all_reduce(both)
        return both[: squares.numel()].view_as(squares), both[squares.numel() :].view_as(sums)

    def sum_rows(self, gram: Tensor) -> Tensor:
        """Return the sum of a tensor over the workers of this copy of the model."""
        dist.all_reduce(gram, group=self._mesh.get_group("shard"))
        return gram

    def to_owners(self, stack: Tensor, rows: int) -> Tensor:
        """Return the whole matrices that this worker owns, its share of them, of (n, rows held here, columns)."""
        share, chunk = -(-len(stack) // self.shards), -(-rows // self.shards)
        given = stack.new_zeros(share * self.shards, chunk, stack.shape[2])
        given[: len(stack), : stack.shape[1]] = stack
        parts = self._exchanged(given.view(self.shards, share, chunk, -1))  # of each worker's rows
        return parts.transpose(0, 1).reshape(share, self.shards * chunk, -1)[:, :rows]

    def to_rows(self, owned: Tensor, count: int) -> Tensor:
        """Return the rows held here of all `count` matrices, of those that each worker owns."""
        share, rows, columns = owned.shape
        chunk = -(-rows // self.shards)
        given = owned.new_zeros(share, self.shards * chunk, columns)
        given[:, :rows] = owned
        parts = self._exchanged(given.view(share, self.shards, chunk, columns).transpose(0, 1).contiguous())
        held = min(chunk, max(0, rows - self._shard * chunk))
        return parts.view(-1, chunk, columns)[:count, :held]

    def _exchanged(self, parts: Tensor) -> Tensor:
        """Return what the workers of this copy of the model have for this one, of a part (s, ...) for each of them."""
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self._mesh.get_group("shard"))
        return received
