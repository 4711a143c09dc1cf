"""What a sharded step sends: the collectives of one of eight workers, counted where nothing is sent (a fake group)."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from lost.backends.torch import devices
from lost.backends.torch.distributed.group import TorchGroup
from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.data.batch import Batch
from lost.errors import OutOfMemoryError, WorkerLostError

WORLD = 8
NAMES = {"_allgather_base_": "gather", "_reduce_scatter_base_": "scatter", "allreduce_": "reduce"}


class Sent(TorchDispatchMode):
    """Counts the collectives of a step, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            name = function._schema.name.partition("::")[2]
            self.counts[NAMES.get(name, name)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchGroup]:
    """The first of eight; PyTorch's fake group has it do everything but send."""
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    group = dist.new_group
    monkeypatch.setattr(dist, "new_group", lambda *ranks, **more: group(*ranks, **{**more, "backend": "fake"}))
    yield TorchGroup()
    dist.destroy_process_group()


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("fits", [True, False])
def test_a_step_sends_little(
    config: Callable[..., Config], workers: TorchGroup, fits: bool, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks, and the rest; each once a step where all fits, else for each of two micro-batches.

    Blocks are gathered again in the backward pass. Groups with a copy each also sum what was scattered inside them.
    """
    monkeypatch.setattr(devices, "capacity", lambda device: 1 << 40 if fits else 0)
    engine = TorchEngine(config(train={"batch_size": 32, "replicas": replicas}), "cpu", workers)
    for held in engine._held.values():
        held.zero_()  # numbers of channels: what was in memory may be anything
    batches = [Batch(np.zeros((2, 9), np.int32)) for _ in range(2)]
    parts, times = 2 + 1, 1 if fits else len(batches)
    for _ in range(2):  # nor does the first step send more
        with Sent() as step:
            engine.step(batches, sum(batch.predictions for batch in batches), 1e-3)
        scattered = parts * times
        assert step.counts == {
            "gather": scattered if fits else scattered + 2 * times,
            "scatter": scattered,
            "reduce": 1 + (scattered if replicas > 1 else 0),  # the loss and the norm in one
        }
    with Sent() as evaluation:
        engine.evaluate(batches[:1])
    assert evaluation.counts == {"gather": parts}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[gloo/transport/tcp/pair.cc:538] Connection closed by peer", WorkerLostError),
        ("NCCL error in: NCCLUtils.hpp:340, unhandled\nCuda failure 2 'out of memory'", OutOfMemoryError),
        ("NCCL error in: NCCLUtils.hpp:340, unhandled\nFailed to CUDA calloc 8388608 bytes", OutOfMemoryError),
    ],
)
def test_what_a_collective_fails_of(
    said: str, expected: type[Exception], config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker's loss, in training as in a sample; but memory that ran out here is nobody else's."""
    engine = TorchEngine(config(), "cpu")

    def failing(*arguments: object) -> None:
        raise dist.DistBackendError(said)

    monkeypatch.setattr(engine.model, "forward", failing)
    monkeypatch.setattr(engine.model, "logits", failing)
    batch = Batch(np.zeros((2, 9), np.int32))
    for work in (lambda: engine.evaluate([batch]), lambda: list(engine.generate([1], lambda scores: 1, 1))):
        with pytest.raises((RuntimeError, WorkerLostError)) as found:
            work()
        assert OutOfMemoryError.caused(found.value) == (expected is OutOfMemoryError)
        assert isinstance(found.value, WorkerLostError) == (expected is WorkerLostError)
