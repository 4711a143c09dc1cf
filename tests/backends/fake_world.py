"""Bytes that a step of the real sharded engine sends in a world of eight whose other processes aren't there.

python fake_world.py CONFIG CASES    CASES: JSON, by name: overrides, and whether whole steps stay gathered.
                                     Writes JSON: bytes gathered, scattered, sent between copies, to orthogonalize.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import lost.backends.torch.engine as engine_module
from lost.backends.torch.distributed.group import TorchGroup
from lost.bench.compare import random_batches
from lost.distributed.group import local_batch_size
from lost.model.load import load_config

WORLD = 8


class Sent(TorchDispatchMode):
    """What this process would send if its collectives went round a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.scattered = self.between_copies = self.orthogonalized = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        if name == "c10d::_allgather_base_":
            self.gathered += args[0].nbytes - args[1].nbytes
        elif name == "c10d::_reduce_scatter_base_":
            self.scattered += args[1].nbytes - args[0].nbytes
        elif name == "c10d::alltoall_base_":
            self.orthogonalized += args[1].nbytes * (args[1].shape[0] - 1) // args[1].shape[0]
        elif name == "c10d::allreduce_" and args[0][0].dtype == torch.float32:  # float64: the loss and the norm
            count = dist.ProcessGroup.unbox(args[1]).size()
            self.between_copies += 2 * (count - 1) * args[0][0].nbytes // count
        return function(*args, **(kwargs or {}))


def main() -> None:
    """Answer the command line."""
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    new_group = dist.new_group
    dist.new_group = lambda *arguments, **options: new_group(*arguments, **{**options, "backend": "fake"})
    found = {}
    for name, (overrides, whole_steps) in json.loads(sys.argv[2]).items():
        engine_module.fits_whole = lambda *arguments, whole=whole_steps: whole
        config = load_config(sys.argv[1], overrides)
        engine = engine_module.TorchEngine(config, "cpu", TorchGroup())
        for buffer in engine.model.buffers():
            if not buffer.is_floating_point():
                buffer.zero_()  # indices within range; all else may be whatever was there
        local_batch, micro_batch = local_batch_size(config, WORLD)
        batches = list(random_batches(config))[: local_batch // micro_batch]
        with Sent() as sent:
            engine.step(batches, config.tokens_per_step, 1e-3)
        found[name] = [sent.gathered, sent.scattered, sent.between_copies, sent.orthogonalized]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
