"""What a run costs before its first step: `decompose` beside numpy's SVD, and a whole model's initial values.

usage: python benchmarks/start_up.py [CONFIG]        (default llama_1b_paper; minutes)
"""

import sys
import time

import numpy as np
from common import heading

from lost.backends.torch.engine import TorchEngine
from lost.method.decompose import decompose
from lost.model.init import initial_values
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.utils.machine import process_peak_bytes


def seconds(call) -> float:  # type: ignore[no-untyped-def]
    """Time one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Print one table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "llama_1b_paper"
    config = load_config(name)
    model = seconds(lambda: TorchEngine(config, "cpu").load(initial_values(config)))
    peak = process_peak_bytes()
    size = budget(config).memory.weights

    weight = np.random.default_rng(0).standard_normal((2048, 5461))
    own, svd = [], []
    for _ in range(3):  # interleaved
        own.append(seconds(lambda: decompose(weight, 512, 0.03)))
        svd.append(seconds(lambda: np.linalg.svd(weight, full_matrices=False)))
    print(f"{heading('Start-up', 'numpy', 'scipy', words=name)}\n")
    print("| what | seconds | beside |")
    print("| --- | --- | --- |")
    print(f"| decompose 2048 x 5461, rank 512, median of 3 | {np.median(own):.2f} | |")
    print(f"| numpy thin SVD of the same | {np.median(svd):.2f} | {np.median(own) / np.median(svd):.3f} of it |")
    print(f"| initial values of {config.model.hidden_size} x {config.model.num_hidden_layers} layers | {model:.0f} | |")
    print(f"| peak memory of that, framework included | {peak / 2**30:.2f} GiB | {peak / size:.2f} x the weights |")


if __name__ == "__main__":
    main()
