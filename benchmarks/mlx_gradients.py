"""Whether MLX's gradients of gathers have the same bits each time: many processes, their threads shuffled in number.

usage: python benchmarks/mlx_gradients.py [--runs 100] [--device auto]      (minutes; exit code 1: ours aren't equal)

A process computes each gradient in as many streams at once as it has threads. Beside ours stand MLX's own, which on
Metal are sums in any order.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from threading import Thread

import mlx.core as mx
import numpy as np
from common import heading

from lost.backends.mlx.devices import resolve
from lost.backends.mlx.kernels.gather import embedded, kept

TOKENS, WIDTH, KEPT, VOCABULARY = 4096, 256, 64, 512
MOST_THREADS = 8
OURS = ("kept channels", "embedding")

Gather = Callable[[mx.array], mx.array]


def main() -> None:
    """Print one table, and say by the exit code whether ours were equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # one process of the many
    given = parser.parse_args()
    device = resolve(given.device)
    if given.threads:
        mx.set_default_device(mx.Device(getattr(mx, device)))
        print(json.dumps(digests(given.threads)))
        return
    threads = [1 + number % MOST_THREADS for number in range(given.runs)]
    random.Random(0).shuffle(threads)
    found: dict[str, list[str]] = defaultdict(list)
    for number in threads:
        done = subprocess.run(
            [sys.executable, __file__, "--device", device, "--threads", str(number)],
            env={**os.environ, "OMP_NUM_THREADS": str(number)}, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        for name, values in json.loads(done.stdout).items():
            found[name] += values
    print(heading("Gradients of MLX's gathers, again and again", "mlx"), end="; ")
    print(f"on {device}, {given.runs} processes of 1 to {MOST_THREADS} threads\n")
    print("| gradient | computed | different results |\n| --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {len(values)} | {len(set(values))} |")
    sys.exit(any(len(set(values)) > 1 for name, values in found.items() if name.startswith(OURS)))


def digests(threads: int) -> dict[str, list[str]]:
    """Compute each gradient once a thread, all at the same time; return their SHA-256."""
    draw = np.random.default_rng(0)
    found: dict[str, list[str]] = {}
    for dtype in (mx.float32, mx.bfloat16):
        for name, (gather, size, outer) in gathers(draw, dtype).items():
            values = mx.array(draw.standard_normal(size), dtype)
            mx.eval(values, outer)
            results: list[str] = []

            def gradient(gather: Gather = gather, values: mx.array = values, outer: mx.array = outer,
                         results: list[str] = results) -> None:  # fmt: skip
                with mx.stream(mx.new_stream(mx.default_device())):
                    found = mx.grad(lambda each: (gather(each) * outer).sum())(values).astype(mx.float32)
                    mx.eval(found)
                results.append(hashlib.sha256(np.array(found).tobytes()).hexdigest())

            at_once = [Thread(target=gradient) for _ in range(threads)]
            for thread in at_once:
                thread.start()
            for thread in at_once:
                thread.join()
            found[f"{name}, {str(dtype).removeprefix('mlx.core.')}"] = results
    return found


def gathers(draw: np.random.Generator, dtype: mx.Dtype) -> dict[str, tuple[Gather, tuple[int, int], mx.array]]:
    """Return by name a gather, the shape of what it reads, and what its result is multiplied by."""
    channels = mx.array(np.sort(draw.permutation(WIDTH)[:KEPT]).astype(np.int32))
    tokens = mx.array((VOCABULARY * draw.random(TOKENS) ** 4).astype(np.int32))  # some are met often, as in text
    few = mx.array(draw.standard_normal((TOKENS, KEPT)), dtype)
    rows = mx.array(draw.standard_normal((TOKENS, WIDTH)), dtype)
    return {
        "kept channels": (lambda x: kept(x, channels), (TOKENS, WIDTH), few),
        "embedding": (lambda weight: embedded(weight, tokens), (VOCABULARY, WIDTH), rows),
        "x[..., channels]": (lambda x: x[..., channels], (TOKENS, WIDTH), few),
        "weight[tokens]": (lambda weight: weight[tokens], (VOCABULARY, WIDTH), rows),
    }


if __name__ == "__main__":
    main()
