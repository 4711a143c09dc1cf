"""That no process holds the whole model at a start under torchrun: prints results/shards.md.

usage: python benchmarks/shards.py        (minutes on two cores)

llama_7b_paper at a quarter of its width, 1 and 2 processes on a CPU: the most memory that each held while it filled its
part of the model with first values, less what Python and PyTorch take; with half of the layers and with all, so that
what a layer adds can be told from what is needed once. And the same for llama_7b_paper itself, by arithmetic.
"""

import json
import os
import subprocess
import sys

from common import heading

from lost.model.load import load_config
from lost.planning.budget import budget

PROGRAM = """
import json, sys
from lost.backends.torch import create, join
from lost.model.load import load_config
from lost.model.init import initial_values
from lost.utils.machine import process_peak_bytes
config = load_config("llama_7b_paper", json.loads(sys.argv[1]))
workers = join()
before = process_peak_bytes()
engine = create(config, "cpu", workers)
engine.load(initial_values(config, workers.rank, workers.world_size))
print("peak", process_peak_bytes() - before, flush=True)
workers.close()
"""


NARROW = ["model.hidden_size=1024", "model.intermediate_size=2752", "projection.rank=256", "model.vocab_size=8000"]
FLOAT32 = ["train.dtype=float32", "train.param_dtype=float32"]


def main() -> None:
    """Print two tables."""
    print(f"{heading('Starting shard by shard', 'torch')}\n")
    print("llama_7b_paper at a quarter of its width, in float32: most memory of a process while it starts, MiB.\n")
    print(
        "| processes | 16 layers | 32 layers | what 16 layers add | of their weights |\n| --- | --- | --- | --- | --- |"
    )
    shapes = [[*NARROW, *FLOAT32, f"model.num_hidden_layers={layers}"] for layers in (16, 32)]
    weights = [budget(load_config("llama_7b_paper", sets)).memory.weights for sets in shapes]
    for world in (1, 2):
        few, many = (start(world, sets) for sets in shapes)
        share = (many - few) / (weights[1] - weights[0])
        print(
            f"| {world} | {few / 2**20:.0f} | {many / 2**20:.0f} | {(many - few) / 2**20:.0f} | {share:.2f} |",
            flush=True,
        )
    print(f"\nIts weights: {weights[0] / 2**20:.0f} and {weights[1] / 2**20:.0f} MiB.\n")
    print("llama_7b_paper as shipped, micro-batches of one sequence, GiB a process by `lost.planning.budget`:\n")
    print("| processes | weights | gradients | moments | activations | all |\n| --- | --- | --- | --- | --- | --- |")
    whole = load_config("llama_7b_paper", ["train.micro_batch_size=1"])
    for world in (1, 2, 8):
        memory = budget(whole, "torch", "cuda", 1, None, world).memory
        parts = (memory.weights, memory.gradients, memory.moments, memory.activations, memory.total)
        print(f"| {world} | {' | '.join(f'{part / 2**30:.1f}' for part in parts)} |")


def start(world: int, sets: list[str]) -> int:
    """Return the bytes of the process that held most."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "--no-python"]
    command = [sys.executable, *launcher, sys.executable, "-c", PROGRAM, json.dumps(sets)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return max(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))


if __name__ == "__main__":
    main()
