"""How much a command computes before its first answer: CPU seconds, as other work on the machine makes no more of them.

usage: python benchmarks/first_answer.py [TREE...] [--rounds 5]      (4 minutes for two trees on two cores)

TREE is a folder with the project, by default this one; its name is a column of the table that is printed. All of it
runs in one thread: threads that wait for each other would be counted too.
"""

import argparse
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from common import write_words

SIZES = "model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4}\n"
CONFIG = f"{SIZES}projection: {{rank: 8}}\ndata: {{seq_len: 16}}\ntrain: {{batch_size: 4}}\nschedule: {{steps: 1}}\n"


def main() -> None:
    """Run everything by turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs="*", default=[Path(__file__).parents[1]], metavar="TREE")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        commands = cases(options.trees[0], place)
        taken: dict[tuple[str, Path], list[float]] = {(name, tree): [] for name in commands for tree in options.trees}
        for number in range(options.rounds + 1):
            for (name, tree), seconds in taken.items():
                command, environment = commands[name]
                seconds.append(cpu_seconds(tree, command, environment))
            print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
    asked = shlex.join(["python", "benchmarks/first_answer.py", *sys.argv[1:]])
    print(f"# Before the first answer\n\n`{asked}`\n")
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "numpy", "typer"))
    print(f"{packages}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs; load during "
          f"the last minute {os.getloadavg()[0]:.1f}. CPU seconds of the process, user and system, median of "
          f"{options.rounds} rounds; a round before them isn't counted.\n")  # fmt: skip
    print("| |" + "".join(f" {tree.resolve().name} |" for tree in options.trees))
    print("| --- |" + " --- |" * len(options.trees))
    for name in commands:
        medians = [statistics.median(taken[name, tree][1:]) for tree in options.trees]
        print(f"| {name} |" + "".join(f" {median:.2f} |" for median in medians))


def cases(tree: Path, place: Path) -> dict[str, tuple[list[object], dict[str, str]]]:
    """Return what is measured by name, Python's arguments and variables, and make the files that it needs."""
    write_words(place / "text.txt", 400)
    (place / "tiny.yaml").write_text(CONFIG)
    lost, cpu = ["-m", "lost"], ["--backend", "torch", "--device", "cpu"]
    train = [*lost, "train", place / "tiny.yaml", "--data", place / "data", *cpu]
    cpu_seconds(tree, [*lost, "prepare", place / "text.txt", "--out", place / "data", "--vocab-size", 600], {})
    cpu_seconds(tree, [*train, "--out", place / "run"], {})
    assert (place / "run" / "latest").exists()
    return {
        "`import torch`, nothing else": (["-c", "import torch"], {}),
        "`lost --help`": ([*lost, "--help"], {}),
        "`lost plan quickstart`": ([*lost, "plan", "quickstart"], {}),
        "`lost train` of 50,000 parameters, up to the first step": (
            [*train, "--out", place / "other", "--fresh"], {"LOST_FAIL_POINT": "step.done=kill"}
        ),
        "`lost generate` of its first token": (
            [*lost, "generate", place / "run", "--prompt", "a", "--max-tokens", 1, *cpu], {}
        ),
    }  # fmt: skip


def cpu_seconds(tree: Path, arguments: list[object], environment: dict[str, str]) -> float:
    """Return the processor time that Python takes with these arguments in a tree."""
    own = {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=tree, env={**os.environ, **own}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -9):  # killed where it was told to be
        raise SystemExit(f"{shlex.join(map(str, arguments))} in {tree} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
