"""MLX's peak of memory in two steps of training beside the plan's estimate, for configurations of many kinds.

usage: LD_PRELOAD=.venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so python benchmarks/mlx_memory.py
       (--device cpu: on a Mac too)

The preloaded library gives MLX a BLAS; its own on Linux is a slow reference one. On a Mac, leave LD_PRELOAD out. Each
configuration has a process of its own, three times: how far MLX computes ahead of what it frees varies. Minutes.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from common import heading

from lost.backends.mlx.devices import resolve
from lost.backends.mlx.engine import MlxEngine
from lost.data.batch import Batch
from lost.model.init import initial_values
from lost.model.load import load_config
from lost.planning.budget import budget

RUNS, OFF = 3, 0.15
FEW = ("train.batch_size=2", "train.micro_batch_size=2", "data.seq_len=16")  # so that the update takes most
EIGHT = ("train.batch_size=8", "train.micro_batch_size=8")
CONFIGURATIONS = {
    "quickstart": ("quickstart", *EIGHT),
    "quickstart, AdamW": ("quickstart", *EIGHT, "optimizer.name=adamw"),
    "quickstart, dense": ("quickstart", *EIGHT, "projection.kind=dense"),
    "quickstart, CoLA": ("quickstart", *EIGHT, "projection.kind=cola"),
    "quickstart, SLTrain": ("quickstart", *EIGHT, "projection.kind=sltrain"),
    "quickstart, no activation": ("quickstart", *EIGHT, "projection.activation=none"),
    "quickstart, 4 micro-batches": ("quickstart", "train.batch_size=8", "train.micro_batch_size=2"),
    "quickstart, narrow": ("quickstart", *EIGHT, "train.checkpoint_activations=narrow"),
    "quickstart, full": ("quickstart", *EIGHT, "train.checkpoint_activations=full"),
    "quickstart, full, dense": ("quickstart", *EIGHT, "train.checkpoint_activations=full", "projection.kind=dense"),
    "quickstart, compiled": ("quickstart", *EIGHT, "train.compile=true"),
    "quickstart, 1,024 tokens": ("quickstart", "train.batch_size=2", "train.micro_batch_size=2", "data.seq_len=1024",
                                 "model.max_position_embeddings=1024"),
    "quickstart, bfloat16": ("quickstart", "train.batch_size=2", "train.micro_batch_size=2", "train.dtype=bfloat16"),
    "32 tokens": ("quickstart", *FEW),
    "32 tokens, compiled": ("quickstart", *FEW, "train.compile=true"),
    "32 tokens, dense": ("quickstart", *FEW, "projection.kind=dense"),
    "32 tokens, dense, compiled": ("quickstart", *FEW, "projection.kind=dense", "train.compile=true"),
    "32 tokens, Spectron": ("quickstart", *FEW, "optimizer.name=spectron"),
    "llama_60m_paper, float32": ("llama_60m_paper", "train.batch_size=4", "train.micro_batch_size=4",
                                 "train.dtype=float32"),
    "llama_60m, float32": ("llama_60m", "train.batch_size=4", "train.micro_batch_size=4", "train.dtype=float32"),
}  # fmt: skip


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one process of the many
    given = parser.parse_args()
    device = resolve(given.device)
    if given.only:
        print(json.dumps(measured(given.only, device)))
        return
    print(heading("MLX's memory beside the plan's", "mlx"), end="; ")
    print(f"on {device}, MiB, peaks of {RUNS} processes\n")
    print("| configuration | estimate | peaks | largest over estimate |\n| --- | --- | --- | --- |")
    off = []
    for name in CONFIGURATIONS:
        peaks = []
        for _ in range(RUNS):
            command = [sys.executable, __file__, "--device", device, "--only", name]
            estimate, peak = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            peaks.append(peak)
        share = max(peaks) / estimate
        off += [name] if abs(share - 1) > OFF else []
        least, most = (f"{value / 2**20:.0f}" for value in (min(peaks), max(peaks)))
        print(f"| {name} | {estimate / 2**20:.0f} | {least}-{most} | {share:.2f} |", flush=True)
    print(f"\noff by over {OFF:.0%}: {'; '.join(off) or 'none'}")


def measured(name: str, device: str) -> tuple[int, int]:
    """Return the estimate and the peak of one configuration, in bytes."""
    shipped, *settings = CONFIGURATIONS[name]
    config = load_config(shipped, [*settings, "model.vocab_size=8192"] if shipped == "quickstart" else settings)
    engine = MlxEngine(config, device)
    engine.load(initial_values(config))
    size, length = config.train.micro_batch, config.data.seq_len
    draw = np.random.default_rng(0)
    entries = config.model.vocab_size
    assert entries is not None
    for _ in range(2):
        batches = [
            Batch(draw.integers(0, entries, (size, length + 1)).astype(np.int32))
            for _ in range(config.train.batch_size // size)
        ]
        engine.step(batches, config.train.batch_size * length, 1e-3).wait()
    return budget(config, "mlx", device).memory.total, engine.memory()["memory_bytes"]


if __name__ == "__main__":
    main()
