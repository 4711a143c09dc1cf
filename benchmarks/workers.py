"""Two processes of one thread under torchrun beside one process of two threads: prints results/workers.md.

usage: python benchmarks/workers.py [ROUNDS]        (minutes on two cores, with nothing else running)

The same run, by turns: llama_60m_paper, 32 x 256 tokens a step, micro-batches of 4, float32, on a CPU.
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

STEPS = 4  # the first one isn't counted


def main() -> None:
    """Train a few steps each way in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = Path(sysconfig.get_path("stdlib"), "email")  # any text will do
        lost("prepare", text, "--include", "*.py", "--out", work / "data", "--vocab-size", 1000)
        for number in range(rounds):
            for world, found in rates.items():
                found += rate(work, world, work / f"run-{number}-{world}")
                print(f"round {number + 1}: {world} processes: {found[-1]:.0f} tokens/s", file=sys.stderr, flush=True)
    one, two = (statistics.median(each) for each in rates.values())
    print(f"# Two processes beside one\n\n`python benchmarks/workers.py {rounds}`, PyTorch {torch.__version__}\n")
    print("| | tokens/s, median | 25-75 % |\n| --- | --- | --- |")
    for name, each in zip(("1 process, 2 threads", "2 processes, 1 thread each"), rates.values(), strict=True):
        low, _, high = statistics.quantiles(each, n=4)
        print(f"| {name} | {statistics.median(each):.0f} | {low:.0f}-{high:.0f} |")
    print(f"\nRatio of the medians: {two / one:.2f}")


def rate(work: Path, world: int, run: Path) -> list[float]:
    """Return the tokens a second of each counted step."""
    sets = ["model.vocab_size=32000", "data.seq_len=256", "train.batch_size=32", "train.micro_batch_size=4",
            "train.dtype=float32", "train.log_every=1", "train.eval_every=0", "train.save_every=0",
            f"train.stop_after={STEPS}", "train.eval_tokens=1000"]  # fmt: skip
    arguments = ["train", "llama_60m_paper", "--data", work / "data", "--out", run, "--device", "cpu"]
    lost(*arguments, *(word for value in sets for word in ("--set", value)), world=world)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["tokens_per_second"] for row in rows if "loss" in row][1:]


def lost(*arguments: object, world: int = 1) -> None:
    """Call the command line, under torchrun where several processes are wanted."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", world, "--no-python", sys.executable]
    command = [sys.executable, *map(str, [*(launcher if world > 1 else []), "-m", "lost", *arguments])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(2 // world)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    main()
