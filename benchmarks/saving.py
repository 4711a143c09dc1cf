"""What saving beside the training costs: prints results/saving.md.

usage: python benchmarks/saving.py [ROUNDS]        (ten minutes a round on two cores, with nothing else running)

A model of llama_130m_paper's shape on a CPU in float32, 2 x 128 tokens a step: steps are short, so that a save weighs
much. 200 steps with a checkpoint every 100 beside 200 steps without, in turns.
"""

import statistics
import sys
import sysconfig
import tempfile
from pathlib import Path

from commands import call, sets, steps
from common import heading

from lost.tracking.metrics import FILE, read_rows

STEPS, EVERY = 200, 100


def main() -> None:
    """Train both ways in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    seconds: dict[int, list[float]] = {0: [], EVERY: []}
    stalls: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = Path(sysconfig.get_path("stdlib"), "email")  # any text will do
        call("prepare", text, "--include", "*.py", "--out", work / "data", "--vocab-size", 1000)
        for number in range(rounds):
            for every, found in seconds.items():
                run = work / f"run-{number}-{every}"
                time, stall = train(work, run, every)
                found.append(time + stall)
                stalls += [stall] if every else []
                print(f"save_every {every}: {found[-1]:.1f} s", file=sys.stderr, flush=True)
    without, with_saves = (statistics.median(each) for each in seconds.values())
    print(f"{heading('Saving beside the training', 'torch', words=str(rounds))}\n")
    print(
        f"llama_130m_paper's shape, {STEPS - 1} steps of 2 x 128 tokens, a checkpoint (arrays of 1.2 GB) at step "
        f"{EVERY}.\n"
    )
    print("| | seconds, median | all |\n| --- | --- | --- |")
    for name, each in zip(("without", f"every {EVERY} steps"), seconds.values(), strict=True):
        print(f"| {name} | {statistics.median(each):.1f} | {', '.join(f'{one:.1f}' for one in each)} |")
    print(
        f"\nCost: {100 * (with_saves / without - 1):.1f} %. Training waited {statistics.median(stalls):.2f} s a save."
    )


def train(work: Path, run: Path, every: int) -> tuple[float, float]:
    """Return the seconds of the steps after the first, and those for which training waited for a save meanwhile."""
    words = sets("model.vocab_size=32000", "data.seq_len=128", "train.batch_size=2", "train.micro_batch_size=2",
                 "train.dtype=float32", "train.log_every=1", "train.eval_every=0", "train.eval_tokens=256",
                 f"train.save_every={every}", f"train.stop_after={STEPS}")  # fmt: skip
    where = ("--data", work / "data", "--out", run, "--device", "cpu", "--backend", "torch")
    call("train", "llama_130m_paper", *where, *words)
    ends = [row["seconds"] for row in steps(run)]
    saves = [row for row in read_rows(run / FILE) if row["step"] == EVERY and "checkpoint" in row]
    return ends[-1] - ends[0], sum(row["stall_seconds"] for row in saves)


if __name__ == "__main__":
    main()
