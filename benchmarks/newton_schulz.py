"""Error of Muon's iteration in float32, by its division into runs on the Gram matrix, beside the plain one in float64.

usage: python benchmarks/newton_schulz.py > benchmarks/results/newton_schulz.md        (seconds)
"""

import numpy as np
import torch
from common import heading

from lost.backends.torch.optim import muon
from lost.optim.muon import newton_schulz

RUNS = ((1, 1, 1, 1, 1), (2, 3), (3, 2), (5,))
SHAPES, CONDITIONS = ((256, 64), (688, 96)), (10, 100, 1_000, 10_000)


def main() -> None:
    """Print one table: matrices whose singular values fall evenly on a logarithmic scale."""
    print(f"{heading('Newton and Schulz in float32', 'torch')}; relative distance in norm\n")
    print("| shape | condition | " + " | ".join("runs of " + " + ".join(map(str, runs)) for runs in RUNS) + " |")
    print("| --- | --- |" + " --- |" * len(RUNS))
    random = np.random.default_rng(0)
    for shape in SHAPES:
        left, right = (np.linalg.qr(random.standard_normal((side, shape[1])))[0] for side in shape)
        for condition in CONDITIONS:
            matrix = (left * np.geomspace(1, 1 / condition, shape[1])) @ right.T
            errors = " | ".join(f"{error(matrix, runs):.0e}" for runs in RUNS)
            print(f"| {shape[0]} x {shape[1]} | {condition:,} | {errors} |")


def error(matrix: np.ndarray, runs: tuple[int, ...]) -> float:
    """Return how far the iteration in float32 is from five plain ones in float64."""
    muon.RUNS = runs  # type: ignore[misc]
    result = muon.newton_schulz(torch.from_numpy(matrix[None].astype(np.float32)))[0].numpy()
    expected = newton_schulz(matrix)
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()
