"""What a step of MLX launches on Metal, read from its graph on any machine: LOST beside dense, by kind of operation.

usage: python benchmarks/mlx_launches.py

What is counted, and what stands for Metal's own kernels: tests/mlx_graph.py; tests/backends/test_mlx_graph.py holds
the totals. Models are narrow; how many operations there are doesn't follow from their widths.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from common import heading
from mlx_graph import as_on_metal, launches

# micro-batches of a step: quickstart's batch is one; llama_60m's 512 sequences are eight of 64 in 6 GiB (docs/mac.md)
RECIPES = {"quickstart": 1, "llama_60m": 8}
KINDS = ("lost", "dense")


def main() -> None:
    """Print the tables."""
    as_on_metal(setattr)
    print(heading("Operations of a step on Metal", "mlx"))
    for name, micro_batches in RECIPES.items():
        found = {kind: [by_kind(each) for each in launches(name, f"projection.kind={kind}")] for kind in KINDS}
        print(f"\n## {name}\n\nThe first micro-step, one that adds to its gradients, the update; LOST, dense.\n")
        print("| operation | first: LOST | dense | later: LOST | dense | update: LOST | dense |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        columns = [found[kind][part] for part in range(3) for kind in KINDS]
        for operation in sorted(set().union(*columns)):
            print(f"| {operation} | {' | '.join(str(each[operation]) for each in columns)} |")
        print(f"| all | {' | '.join(str(each.total()) for each in columns)} |")
        steps = []
        for kind in KINDS:
            first, later, update = (each.total() for each in found[kind])
            steps.append(first + (micro_batches - 1) * later + update)
        print(f"\nMicro-batches of a step: {micro_batches}. Operations: {steps[0]:,} and {steps[1]:,},", end=" ")
        print(f"{steps[0] / steps[1]:.2f} times.")


def by_kind(found: Counter[str]) -> Counter[str]:
    """Return operations with all that MLX's compiler fused under one name."""
    kinds: Counter[str] = Counter()
    for name, count in found.items():
        kinds["fused elementwise" if name.startswith("Compiled") else name] += count
    return kinds


if __name__ == "__main__":
    main()
