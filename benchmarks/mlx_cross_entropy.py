"""A chunk of the head's loss with its gradient, as we compute it and by `mx.fast.cross_entropy`: time and memory.

usage: LD_PRELOAD=.venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so python benchmarks/mlx_cross_entropy.py

The preloaded library gives MLX a BLAS; its own on Linux is a slow reference one. On a Mac, leave LD_PRELOAD out: there
and on CUDA alone MLX has one kernel for it.
"""

from collections.abc import Callable
from statistics import median

import mlx.core as mx
import numpy as np
from common import heading

from lost.backends.mlx.kernels.loss import head_loss
from lost.bench.timing import time_interleaved

ROUNDS = 15
MIB = 2**20
SHAPES = ((1024, 256, 8192), (256, 512, 32000))  # tokens, width, entries: a chunk of 32 MiB in float32


def main() -> None:
    """Print one table."""
    print(heading("MLX's cross-entropy", "mlx"), end="; ")
    print(f"on {mx.default_device().type.name}, medians of {ROUNDS}\n")
    print(
        "| tokens x width x entries, type | way | ms | peak, MiB | gradients apart |\n| --- | --- | --- | --- | --- |"
    )
    for shape in SHAPES:
        for dtype in (mx.float32, mx.bfloat16) if mx.default_device().type.name == "gpu" else (mx.float32,):
            compare(*shape, dtype)


def compare(tokens: int, width: int, entries: int, dtype: mx.Dtype) -> None:
    """Print a line for each way."""
    draw = np.random.default_rng(0)
    x, weight = (mx.array(draw.standard_normal((rows, width)), dtype) for rows in (tokens, entries))
    weight, targets = weight * width**-0.5, mx.array(draw.integers(0, entries, tokens).astype(np.int32))
    mask = mx.array(draw.random(tokens) < 0.9)
    mx.eval(x, weight, targets, mask)

    def fast(x: mx.array, weight: mx.array) -> mx.array:
        return (mx.fast.cross_entropy((x @ weight.T).astype(mx.float32), targets) * mask).sum()

    def ours(x: mx.array, weight: mx.array) -> mx.array:
        return head_loss(x, weight, targets, mask)

    ways: dict[str, Callable[[], list[mx.array]]] = {}
    for name, loss in (("ours", ours), ("mx.fast.cross_entropy", fast)):
        both = mx.value_and_grad(loss, argnums=(0, 1))
        ways[name] = lambda both=both: (lambda value, found: [value, *found])(*both(x, weight))
    peaks, ends = {}, {}
    for name, way in ways.items():
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(ends := {**ends, name: way()})
        peaks[name] = mx.get_peak_memory() - before
    apart = mx.linalg.norm((ends["ours"][1] - ends["mx.fast.cross_entropy"][1]).astype(mx.float32))
    apart = (apart / mx.linalg.norm(ends["ours"][1].astype(mx.float32))).item()
    del ends
    times = time_interleaved({name: lambda way=way: mx.eval(way()) for name, way in ways.items()}, ROUNDS, warm_up=2)
    label = f"{tokens} x {width} x {entries}, {str(dtype).removeprefix('mlx.core.')}"
    for name in ways:
        print(f"| {label} | {name} | {median(times[name]) * 1e3:.0f} | {peaks[name] / MIB:.0f} | {apart:.0e} |")


if __name__ == "__main__":
    main()
