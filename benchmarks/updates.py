"""Muon's update alone in two versions of this project, in turns: LOST layers of the 60M shape, PyTorch on a CPU.

usage: python benchmarks/updates.py BEFORE AFTER [--rounds 3]        (a minute on two quiet cores)

BEFORE and AFTER are folders with the project, such as two `git worktree`s.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import statistics, time, torch
from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings
config = settings("llama_60m_paper", ["optimizer.name=muon"], "cpu", batch=1, seq_len=256)
engine = TorchEngine(config, "cpu")
engine.load(random_parameters(config))
engine.step(list(random_batches(config)), 256, 1e-5).wait()
times = []
for _ in range(12):
    start = time.perf_counter()
    engine._optimizer.step(1e-5, torch.tensor(False))
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


def main() -> None:
    """Print each round's medians of 12 updates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ratios = []
    for _ in range(given.rounds):
        seconds = []
        for tree in given.trees:
            env = {**os.environ, "PYTHONPATH": str(tree.resolve())}
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM], cwd=tree, env=env, check=True, capture_output=True, text=True
            )
            seconds.append(float(done.stdout))
        ratios.append(seconds[1] / seconds[0])
        print(f"before {seconds[0] * 1e3:.0f} ms, after {seconds[1] * 1e3:.0f} ms: {ratios[-1]:.2f}", flush=True)
    print(f"median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
