"""That no process holds the whole model at a start under torchrun: prints results/shards.md.

usage: python benchmarks/shards.py [LAYERS]        (a minute a layer on two cores)

llama_7b's shape with a few layers, 1 and 2 processes on a CPU: the most memory that each held while it filled its part
of the model with first values, less what Python and PyTorch take. And the same for all of llama_7b, by arithmetic.
"""

import json
import os
import subprocess
import sys

import torch

from lost.budget import budget
from lost.configfile import load_config

PROGRAM = """
import json, sys
from lost.backends.torch import create, join
from lost.configfile import load_config
from lost.initial import initial_values
from lost.machine import process_peak_bytes
config = load_config("llama_7b", json.loads(sys.argv[1]))
workers = join()
before = process_peak_bytes()
engine = create(config, "cpu", workers)
engine.load(initial_values(config, workers.rank, workers.count))
print("peak", process_peak_bytes() - before, flush=True)
workers.leave()
"""


def main() -> None:
    """Print one table."""
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    sets = [f"model.num_hidden_layers={layers}", "train.dtype=float32", "train.param_dtype=float32"]
    weights = budget(load_config("llama_7b", sets)).memory.weights
    print(f"# Starting shard by shard\n\n`python benchmarks/shards.py {layers}`, PyTorch {torch.__version__}\n")
    print(f"llama_7b's shape with {layers} layers: weights of {weights / 2**30:.2f} GiB in float32.\n")
    print("| processes | most memory of one, GiB | of the weights |\n| --- | --- | --- |")
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "--no-python"]
        command = [sys.executable, *launcher, sys.executable, "-c", PROGRAM, json.dumps(sets)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak")]
        print(f"| {world} | {max(peaks) / 2**30:.2f} | {max(peaks) / weights:.2f} |")
    whole = load_config("llama_7b", ["train.micro_batch_size=1"])
    print("\nThe whole of llama_7b as shipped, micro-batches of one sequence, GiB a process by `lost.budget`:\n")
    print("| processes | weights | gradients | moments | activations | all |\n| --- | --- | --- | --- | --- | --- |")
    for world in (1, 2, 8):
        memory = budget(whole, "torch", "cuda", 1, None, world).memory
        parts = (memory.weights, memory.gradients, memory.moments, memory.activations, memory.total)
        print(f"| {world} | {' | '.join(f'{part / 2**30:.1f}' for part in parts)} |")


if __name__ == "__main__":
    main()
