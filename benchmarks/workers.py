"""Two processes of one thread under torchrun beside one process of two threads: prints results/workers.md.

usage: python benchmarks/workers.py [ROUNDS]        (minutes on two cores, with nothing else running)

The same run, by turns: llama_60m_paper, 32 x 256 tokens a step, micro-batches of 4, float32, on a CPU.
"""

import os
import statistics
import sys
import sysconfig
import tempfile
from pathlib import Path

from commands import call, sets, steps
from common import heading

STEPS = 4  # the first one isn't counted


def main() -> None:
    """Train a few steps each way in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = Path(sysconfig.get_path("stdlib"), "email")  # any text will do
        call("prepare", text, "--include", "*.py", "--out", work / "data", "--vocab-size", 1000)
        for number in range(rounds):
            for world, found in rates.items():
                found += rate(work, world, work / f"run-{number}-{world}")
                print(f"round {number + 1}: {world} processes: {found[-1]:.0f} tokens/s", file=sys.stderr, flush=True)
    one, two = (statistics.median(each) for each in rates.values())
    print(f"{heading('Two processes beside one', 'torch', words=str(rounds))}\n")
    print("| | tokens/s, median | 25-75 % |\n| --- | --- | --- |")
    for name, each in zip(("1 process, 2 threads", "2 processes, 1 thread each"), rates.values(), strict=True):
        low, _, high = statistics.quantiles(each, n=4)
        print(f"| {name} | {statistics.median(each):.0f} | {low:.0f}-{high:.0f} |")
    print(f"\nRatio of the medians: {two / one:.2f}")


def rate(work: Path, world: int, run: Path) -> list[float]:
    """Return the tokens a second of each counted step."""
    words = sets("model.vocab_size=32000", "data.seq_len=256", "train.batch_size=32", "train.micro_batch_size=4",
                 "train.dtype=float32", "train.log_every=1", "train.eval_every=0", "train.save_every=0",
                 f"train.stop_after={STEPS}", "train.eval_tokens=1000")  # fmt: skip
    where = ("--data", work / "data", "--out", run, "--device", "cpu")
    threads = {**os.environ, "OMP_NUM_THREADS": str(2 // world)}
    call("train", "llama_60m_paper", *where, *words, workers=world, env=threads)
    return [row["tokens_per_second"] for row in steps(run)[1:]]


if __name__ == "__main__":
    main()
