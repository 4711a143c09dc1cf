"""Time that an update of MLX takes of the host: making its graph, compiled and not, LOST beside dense.

usage: python benchmarks/mlx_host.py > benchmarks/results/mlx_host.md        (a minute)

Nothing is computed in the time that counts. Models are narrow (tests/mlx_graph.py): how many arrays there are doesn't
follow from their widths.
"""

import sys
import time
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import mlx.core as mx
from common import heading
from mlx_graph import NARROW

from lost.backends.mlx.engine import MlxEngine
from lost.model.load import load_config

ROUNDS = 20


def main() -> None:
    """Print the table."""
    print(heading("The host's time for an update", "mlx"))
    print(f"\nMilliseconds to make the graph; median (least) of {ROUNDS} rounds in turns.\n")
    print("| recipe | optimizer | kind | not compiled | compiled |\n| --- | --- | --- | --- | --- |")
    for recipe in ("quickstart", "llama_60m"):
        for optimizer in ("adamw", "muon"):
            for kind in ("lost", "dense"):
                settings = [*NARROW, f"optimizer.name={optimizer}", f"projection.kind={kind}"]
                ways = [Update(recipe, [*settings, f"train.compile={each}"]) for each in ("false", "true")]
                for _ in range(ROUNDS + 1):
                    for way in ways:
                        way.time()
                times = [way.times[1:] for way in ways]  # the first one compiles
                cells = " | ".join(f"{median(each) * 1e3:.1f} ({min(each) * 1e3:.1f})" for each in times)
                print(f"| {recipe} | {optimizer} | {kind} | {cells} |", flush=True)


class Update:
    """An engine whose updates are timed, from gradients that are there to results that aren't computed yet."""

    def __init__(self, recipe: str, settings: list[str]) -> None:
        self.engine, self.times = MlxEngine(load_config(recipe, settings), "cpu"), list[float]()
        stacks = self.engine._stacks
        self.gradients = {names: mx.random.normal(each.shape) for names, each in stacks.items()}
        mx.eval(self.gradients, stacks, self.engine._optimizer.held())

    def time(self) -> None:
        """Make one update's graph; then compute it."""
        engine, given = self.engine, dict(self.gradients)
        start = time.perf_counter()
        norm, whole = engine._joint(given)
        engine._update(mx.array(1e-3), norm, whole)
        self.times.append(time.perf_counter() - start)
        mx.eval(engine._stacks, engine._optimizer.held())


if __name__ == "__main__":
    main()
