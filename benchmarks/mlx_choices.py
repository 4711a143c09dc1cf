"""Choices of the MLX backend on a CPU: the gather of channels, the convolution, the chunks of logits, compilation.

usage: LD_PRELOAD=.venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so python benchmarks/mlx_choices.py

The preloaded library gives MLX a BLAS; its own on Linux is a slow reference one. On a Mac, leave LD_PRELOAD out.
"""

import gc
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from common import heading

from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import loss
from lost.backends.mlx.kernels.convolution import short_conv
from lost.backends.mlx.kernels.gather import kept
from lost.data.batch import Batch
from lost.model.init import initial_values
from lost.model.load import load_config

ROUNDS = 7
MIB = 2**20


def main() -> None:
    """Print the tables."""
    blas = "with PyTorch's BLAS" if "torch" in os.environ.get("LD_PRELOAD", "") else "with its own BLAS"
    print(f"{heading('What MLX does on a CPU', 'mlx')};")
    print(f"on {mx.default_device().type.name}, {os.cpu_count()} CPUs, {blas}; medians of {ROUNDS - 1}, in turns\n")
    gather()
    convolution()
    for shape in ((8192, 256, 8192), (1024, 512, 32000)):
        head(*shape)
    step()


def gather() -> None:
    """Take 128 of 512 channels of 2,048 tokens, forward and with the gradient."""
    x, channels = mx.random.normal((2048, 512)), mx.array(np.sort(np.random.default_rng(0).permutation(512)[:128]))
    mx.eval(x, channels)
    ways: dict[str, Callable[[mx.array], mx.array]] = {
        "take_along_axis (kept)": lambda x: kept(x, channels),
        "take(axis=-1)": lambda x: mx.take(x, channels, axis=-1),
        "x[..., channels]": lambda x: x[..., channels],
    }
    forward = timed({name: lambda way=way: way(x) for name, way in ways.items()})
    both = timed({name: lambda way=way: mx.grad(lambda x: way(x).sum())(x) for name, way in ways.items()})
    print("| gather, 2048 x 512, 128 kept | forward, ms | with gradient, ms |\n| --- | --- | --- |")
    for name in ways:
        print(f"| {name} | {forward[name] * 1e3:.2f} | {both[name] * 1e3:.2f} |")


def convolution() -> None:
    """Have 8 sequences of 256 tokens, 64 features wide, look back at two tokens, with the gradients."""
    hidden, taps, outer = mx.random.normal((8, 256, 64)), mx.random.normal((2, 64)), mx.random.normal((8, 256, 64))
    mx.eval(hidden, taps, outer)

    def derived(joined: mx.array, taps: mx.array) -> mx.array:
        y, length = joined[:, 2:], hidden.shape[1]
        for number in (1, 2):
            y = y + taps[number - 1 : number] * joined[:, 2 - number :][:, :length]
        return y

    def gradients(way: Callable[[mx.array, mx.array], mx.array]) -> Callable[[], object]:
        def loss(hidden: mx.array, taps: mx.array) -> mx.array:
            return (way(mx.pad(hidden, [(0, 0), (2, 0), (0, 0)]), taps) * outer).sum()

        compiled = mx.compile(mx.grad(loss, argnums=(0, 1)))
        return lambda: [compiled(hidden, taps) for _ in range(20)]

    times = timed({"own gradient (short_conv)": gradients(short_conv), "MLX's gradient": gradients(derived)})
    print("\n| two tokens back, 8 x 256 x 64, compiled | with gradients, ms |\n| --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {seconds / 20 * 1e3:.2f} |")


def head(tokens: int, hidden: int, vocab: int) -> None:
    """Compute the head's loss and its gradients in chunks of several sizes: time, and peak memory."""
    x, weight = mx.random.normal((tokens, hidden)), mx.random.normal((vocab, hidden)) * 0.02
    targets, mask = mx.zeros(tokens, mx.int32), mx.ones(tokens, mx.bool_)
    mx.eval(x, weight, targets, mask)

    def ours(entries: int) -> Callable[[], object]:
        def call() -> object:
            loss.logits_at_once = lambda *place: entries
            return mx.grad(lambda *arrays: loss.head_loss(*arrays, targets, mask), argnums=(0, 1))(x, weight)

        return call

    ways = {f"{4 * entries // MIB} MiB": ours(entries) for entries in (1 << power for power in (19, 21, 23, 26))}
    times, peaks = timed(ways), {}
    for name, way in ways.items():
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(way())
        peaks[name] = mx.get_peak_memory() - before
    print(
        f"\n| logits a chunk ({tokens} tokens, {hidden} wide, {vocab} entries) | time, s | peak, MiB |"
        "\n| --- | --- | --- |"
    )
    for name in ways:
        print(f"| {name} | {times[name]:.2f} | {peaks[name] / MIB:.0f} |")


def step() -> None:
    """One optimizer step of the quickstart model, eager and compiled."""
    engines = {}
    for name, compiled in (("eager", False), ("compiled", True)):
        config = load_config("quickstart", ["model.vocab_size=8192", f"train.compile={str(compiled).lower()}"])
        engines[name] = MlxEngine(config)
        engines[name].load(initial_values(config))
    random = np.random.default_rng(0)
    batch = Batch(random.integers(0, 8192, (8, 257)).astype(np.int32))
    times = timed(
        {name: lambda engine=engine: engine.step([batch], 2048, 1e-3).wait() for name, engine in engines.items()}
    )
    print("\n| quickstart, one step of 2,048 tokens | s |\n| --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.2f} |")


def timed(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each way, the first round discarded."""
    times = defaultdict(list)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            gc.collect()
            began = time.perf_counter()
            mx.eval(way())
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
