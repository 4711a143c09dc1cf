"""A training step in two versions of this project, in turns: what a change cost. Prints a table.

usage: python benchmarks/two_trees.py BEFORE AFTER [--rounds 5] [--backend torch] [--set KEY=VALUE]

Six minutes on two quiet cores.

BEFORE and AFTER are folders with the project, such as two `git worktree`s. In turns each of them trains the 60M model
for a few steps, through `lost train`, data and log included; the first steps of a process are left out.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from commands import call, sets, steps
from common import write_words

STEPS, LEFT_OUT = 14, 4
SETTINGS = ("train.batch_size=4", "train.micro_batch_size=4", "data.seq_len=256", "train.log_every=1",
            "train.eval_every=0",
            "train.save_every=0", "train.dtype=float32", f"schedule.steps={STEPS}", "schedule.warmup_steps=1",
            "model.vocab_size=32000")  # fmt: skip


def main() -> None:
    """Train in turns, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE beside what this script sets")
    options = parser.parse_args()
    names = ("before", "after")
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(options.trees[0], Path(folder))
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(options.rounds):
            for name, tree in sorted(zip(names, options.trees, strict=True), reverse=bool(number % 2)):
                times[name].append(seconds(tree, Path(folder), data, options.backend, options.set))
                print(f"{name}: {times[name][-1]:.4f} s a step", file=sys.stderr, flush=True)
    ratios = [after / before for before, after in zip(times["before"], times["after"], strict=True)]
    given = [word for word in sys.argv[1:] if word not in map(str, options.trees)]
    command = shlex.join(["python", "benchmarks/two_trees.py", "BEFORE", "AFTER", *given])
    print(f"# A step in two trees\n\n`{command}`, {platform.processor() or platform.machine()}\n")
    print("| 60M, 4 x 256, fp32 | seconds a step, median | from | to |\n| --- | --- | --- | --- |")
    for name in names:
        print(f"| {name} | {statistics.median(times[name]):.4f} | {min(times[name]):.4f} | {max(times[name]):.4f} |")
    print(f"\nAfter beside before, round by round: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; median "
          f"{statistics.median(ratios):.3f}.")  # fmt: skip


def lost(tree: Path, *arguments: object) -> None:
    """Run a command of a tree."""
    call(*arguments, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)})


def prepared(tree: Path, folder: Path) -> Path:
    """Prepare a little text."""
    write_words(folder / "text.txt", 400)
    lost(tree, "prepare", folder / "text.txt", "--out", folder / "data", "--vocab-size", 600)
    return folder / "data"


def seconds(tree: Path, folder: Path, data: Path, backend: str, more: list[str]) -> float:
    """Return the median time of a step in a process of its own."""
    command = ("train", "llama_60m_paper", "--data", data, "--out", folder / "run", "--fresh", "--overwrite")
    lost(tree, *command, "--backend", backend, *sets(*SETTINGS, *more))
    found = [row["tokens"] / row["step"] / row["tokens_per_second"] for row in steps(folder / "run")]
    return statistics.median(found[LEFT_OUT:])


if __name__ == "__main__":
    main()
