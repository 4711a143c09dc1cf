"""Benchmarks of PyTorch: a layer's passes, saved activations, peak memory. Implements `lost.bench.compare.Bench`."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from lost.backends.torch.arrays import DTYPES, to_tensor
from lost.backends.torch.devices import compiles
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.layers import layer as make_layer
from lost.bench.compare import Machine, Pass
from lost.config import TrainConfig
from lost.data.batch import Batch
from lost.projections import Projection
from lost.utils.machine import processor_name

T = TypeVar("T")

_MEMORY = {
    "cuda": "bytes allocated to tensors (torch.cuda.max_memory_allocated), without those of the other kinds",
    "mps": "not counted by PyTorch on this device",
    "cpu": "bytes allocated to tensors, as PyTorch's profiler sees them; the process takes more",
}


def machine(device: str) -> Machine:
    """Describe a device."""
    kind = device.partition(":")[0]
    name = torch.cuda.get_device_name(device) if kind == "cuda" else processor_name()
    return Machine(torch.__version__, name, torch.get_num_threads() if kind == "cpu" else None, _MEMORY[kind])


def layer(
    projection: Projection, values: Mapping[str, np.ndarray], tokens: int, train: TrainConfig, device: str
) -> Pass:
    """Make a layer with these values, compiled if an engine's step would be."""
    module = make_layer(projection, DTYPES[train.param_dtype]).to(device)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(to_tensor(values[name]))
    random, dtype = torch.Generator().manual_seed(0), DTYPES[train.compute_dtype]
    x, y_grad = (
        torch.randn(1, tokens, width, generator=random).to(device, dtype)
        for width in (projection.in_features, projection.out_features)
    )
    x.requires_grad_()
    compiled = compiles(device) if train.compile is None else train.compile
    forward = torch.compile(module, dynamic=False) if compiled else module

    def run(times: int) -> None:
        for _ in range(times):
            torch.autograd.grad(forward(x), [x, *(each for each in module.parameters() if each.requires_grad)], y_grad)
        _wait(device)

    return Pass(run, _saved_by(lambda: forward(x), list(tensors.values())))


def peak_memory(device: str, call: Callable[[], T]) -> tuple[T, int | None]:
    """Return a call's result, and the peak of tensors' bytes during it above those held before."""
    if device.startswith("cuda"):
        # cuBLAS keeps a workspace for each thread that uses it, which shouldn't be counted for the first model.
        torch.ones(8, 8, device=device, requires_grad=True).square().mm(
            torch.ones(8, 8, device=device)
        ).sum().backward()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    if device == "cpu":
        result, changes = _allocations(call)
        return result, int(np.cumsum([0, *changes]).max())
    return call(), None


def saved_bytes(engine: TorchEngine, batch: Batch) -> int | None:
    """Return the bytes of tensors that a forward pass of the trunk leaves behind.

    `saved_tensors_hooks` don't see everything that a checkpointed segment keeps. The head's loss is left out: it
    computes gradients at once and keeps no activations. None for a compiled model, which would be compiled meanwhile.
    """
    if engine.compiled:
        return None
    device, trunk = engine.device, engine.model.model
    tokens = torch.from_numpy(batch.tokens[:, :-1].astype(np.int64)).to(device)
    if device == "cpu":
        return sum(_allocations(lambda: trunk(tokens))[1])
    held = torch.mps.current_allocated_memory if device == "mps" else lambda: torch.cuda.memory_allocated(device)
    before = held()
    states = trunk(tokens)
    _wait(device)
    kept = held() - before
    del states  # only now: it keeps alive what it was computed from
    return kept


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _saved_by(call: Callable[[], Tensor], own: list[Tensor]) -> int:
    """Return the bytes that autograd saves in a call, each storage once, without those of `own` tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for storage in saved.values())


def _allocations(call: Callable[[], T]) -> tuple[T, list[int]]:
    """Return a call's result, and its CPU allocations in order of time, in bytes; frees are negative."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes to standard error when it starts
    with profile(profile_memory=True) as trace:
        result = call()
    events = [event for event in trace.kineto_results.events() if event.name() == "[memory]"]
    return result, [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
