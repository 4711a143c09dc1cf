"""Several workers that hold some rows of every weight each (FSDP2, HSDP), and put them together as they need them."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lost.backends.torch.arrays import DTYPES
from lost.backends.torch.distributed.group import TorchGroup, worker_errors
from lost.backends.torch.distributed.single_device import Whole
from lost.backends.torch.model import LostForCausalLM
from lost.config import Config
from lost.distributed.group import model_shards
from lost.errors import ConfigError
from lost.optim import optimizer_of
from lost.storage.arrays import NamedArrays


class Sharded(Whole):
    """Every worker holds some rows of every weight, its gradient and its moments; a block is put together as it is met.

    With `train.replicas` the workers form as many groups, each of which holds the model once (HSDP).

    Args:
        config: the run.
        workers: all of them make one of these.
        device: this one's.
        whole_steps: whether weights stay whole on every worker from their first use in a step to the last, and
            gradients until they are shared out at its end: less to send, more to hold.

    Raises:
        ConfigError: the workers can't form so many groups, or the optimizer can't keep rows.
    """

    def __init__(self, config: Config, workers: TorchGroup, device: torch.device, whole_steps: bool) -> None:
        self._replicas, self._workers, self._whole_steps = config.train.replicas, workers, whole_steps
        self._shards = model_shards(config, workers.world_size)
        if not optimizer_of(config).by_rows and self._shards > 1:
            raise ConfigError(
                f"optimizer.name = {config.optimizer.name} with {self._shards} workers a model: what it keeps "
                "doesn't follow the rows that a worker holds; set optimizer.name=adamw, or train.replicas to the "
                "number of workers"
            )
        sizes, names = (self._shards,), ("shard",)
        if self._replicas > 1:
            sizes, names = (self._replicas, self._shards), ("replicate", "shard")  # type: ignore[assignment]
        if device.type == "cuda":
            torch.cuda.set_device(device)  # FSDP takes the current one; the mesh sets it only before CUDA is in use
        with worker_errors(workers):
            self._mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
        self._shard = self._mesh.get_local_rank("shard")
        self.writes = workers.rank < self._shards  # the first group
        self._model: FSDPModule
        self._ends: dict[str, tuple[int, int]] = {}

    def build(self, config: Config, device: torch.device) -> LostForCausalLM:
        """Make the model, its tensors empty: no more than this worker's rows take memory."""
        with torch.device("meta"):
            model = LostForCausalLM(config)
        stored, computed = DTYPES[config.train.param_dtype], DTYPES[config.train.dtype]
        policy = MixedPrecisionPolicy(
            param_dtype=None if computed == stored else computed, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in model.model.layers:
            if config.train.compile:
                block.compile()
            fully_shard(block, mesh=self._mesh, mp_policy=policy, reshard_after_forward=not self._whole_steps)
        fully_shard(model, mesh=self._mesh, mp_policy=policy)
        model.to_empty(device=device)
        model.model.fill_rotary_tables(config)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            chunk = -(-len(parameter) // self._shards)
            first = min(self._shard * chunk, len(parameter))
            self._ends[name] = (first, first + len(parameter.to_local()))
        assert isinstance(model, FSDPModule)
        self._model = model
        return model

    @property
    def first_rows(self) -> Mapping[str, int]:  # type: ignore[override]
        """Where the rows held here of a parameter begin."""
        return {name: first for name, (first, _) in self._ends.items()}

    def part(self, parameter: Tensor) -> Tensor:
        """Return the rows held here."""
        return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()

    def cut(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the rows held here of a whole array."""
        return array[slice(*self._ends[name])] if name in self._ends else array

    def received(self, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what all bring, each array whole."""
        return self._workers.spread(arrays)

    def begin_micro_batch(self, last: bool) -> None:
        """Share gradients out and let go of weights after the last micro-batch only, where they fit until then."""
        self._model.set_requires_gradient_sync(last or not self._whole_steps)
        self._model.set_reshard_after_backward(last or not self._whole_steps)

    def sum_up(self, squares: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all workers; rows of equal copies count once."""
        both = torch.stack([squares / self._replicas, nll.to(squares.dtype)])
        dist.all_reduce(both)
        return both[0], both[1]
