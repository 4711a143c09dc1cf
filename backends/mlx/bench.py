"""Benchmarks of MLX: a layer's passes and peak memory. Implements `lost.bench.compare.Bench`.

MLX doesn't report what a forward pass keeps for the backward pass: that is decided as the graph is evaluated.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TypeVar

import mlx.core as mx
import numpy as np

from lost.backends.mlx import devices
from lost.backends.mlx.arrays import DTYPES, to_mlx
from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels.group import works
from lost.backends.mlx.layers import Group
from lost.backends.mlx.layers import layer as make_layer
from lost.bench.compare import Machine, Pass
from lost.config import TrainConfig
from lost.data.batch import Batch
from lost.planning.memory.mlx import compiles
from lost.projections import Projection
from lost.utils.machine import processor_name

T = TypeVar("T")


def machine(device: str) -> Machine:
    """Describe a device."""
    info = mx.device_info(devices.named(device))
    name = str(info.get("device_name") or processor_name())
    return Machine(version("mlx"), name, None, "bytes of arrays (mx.get_peak_memory), without those of the other kinds")


def layer(
    projection: Projection, values: Mapping[str, np.ndarray], tokens: int, train: TrainConfig, device: str
) -> Pass:
    """Make a layer with these values, compiled if an engine's step would be."""
    devices.use(device)
    module, tensors = make_layer(projection, DTYPES[train.param_dtype]), projection.tensors()
    arrays = {
        name: to_mlx(value).astype(mx.int32 if tensors[name].integer else DTYPES[train.param_dtype])
        for name, value in values.items()
    }
    module.update(arrays)
    group = Group(module)
    group.fuse(works(DTYPES[train.compute_dtype]))
    trained = [name for name, tensor in tensors.items() if tensor.trained]
    keys = mx.random.split(mx.random.key(0))
    x, y_grad = (
        mx.random.normal((1, tokens, width), key=key).astype(DTYPES[train.compute_dtype])
        for width, key in zip((projection.in_features, projection.out_features), keys, strict=True)
    )

    def forward(x: mx.array, *weights: mx.array) -> mx.array:
        module.update(dict(zip(trained, weights, strict=True)))
        return module.widen(*group.narrow(x, whole=True)[0])  # as a model's blocks have it, by kernels where these work

    def gradients(x: mx.array, y_grad: mx.array, *weights: mx.array) -> list[mx.array]:
        return mx.vjp(forward, [x, *weights], [y_grad])[1]

    passes = mx.compile(gradients) if compiles(train, device) else gradients
    inputs = [x, y_grad, *(arrays[name] for name in trained)]
    mx.eval(inputs, arrays)

    def run(times: int) -> None:
        for _ in range(times):
            mx.async_eval(passes(*inputs))
        mx.synchronize()

    return Pass(run, None)


def peak_memory(device: str, call: Callable[[], T]) -> tuple[T, int | None]:
    """Return a call's result, and the peak of arrays' bytes during it above those held before."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    result = call()
    return result, mx.get_peak_memory() - before


def saved_bytes(engine: MlxEngine, batch: Batch) -> int | None:
    """Return None: MLX doesn't report it."""
    return None
