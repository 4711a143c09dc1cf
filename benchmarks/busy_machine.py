"""CPU training alone and beside busy processes, under settings of its threads: prints results/busy_machine.md.

usage: python benchmarks/busy_machine.py [ROUNDS [BUSY...]]        (ten minutes on two cores, with nothing else running)

The quickstart configuration, with a vocabulary of 4096, started anew for each figure: every setting by turns beside
so many processes that never wait (default: none, one, and as many as there are cores).
"""

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from commands import call, sets, steps
from common import heading

from lost.utils.machine import cores

STEPS = 5  # the first one isn't counted
SETTINGS: dict[str, dict[str, str]] = {
    "GOMP_SPINCOUNT=300000": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own, as PyTorch brings it on Linux
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},  # what `lost` sets
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = {name for values in SETTINGS.values() for name in values}


def main() -> None:
    """Train a few steps under every setting in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    company = [int(word) for word in sys.argv[2:]] or sorted({0, 1, cores()})
    rates: dict[tuple[str, int], list[float]] = {(name, busy): [] for name in SETTINGS for busy in company}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = Path(sysconfig.get_path("stdlib"))
        texts = (text / "email", text / "asyncio", "--include", "*.py")
        call("prepare", *texts, "--vocab-size", 4096, "--out", work / "data")
        for number in range(rounds):
            for (name, busy), found in rates.items():
                with busy_processes(busy):
                    found.append(rate(work / "data", work / f"{number}-{name}-{busy}", SETTINGS[name]))
                told = f"round {number + 1}: {name}, beside {busy}: {found[-1]:.0f} tokens/s"
                print(told, file=sys.stderr, flush=True)
    print(f"{heading('Training on a busy CPU', 'torch')}, {cores()} cores;")
    print(f"load of the machine before it: {load:.1f}. Tokens/s, median (all rounds).\n")
    print("| | " + " | ".join(f"beside {busy} busy processes" if busy else "alone" for busy in company) + " |")
    print("| --- |" + " --- |" * len(company))
    for name in SETTINGS:
        print(f"| {name} | " + " | ".join(shown(rates[name, busy]) for busy in company) + " |")


def shown(rates: list[float]) -> str:
    """Return the median and what it is of."""
    return f"{statistics.median(rates):,.0f} ({', '.join(f'{each:,.0f}' for each in rates)})"


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many processes busy, each with one thread that never waits."""
    with ExitStack() as started:
        for _ in range(number):
            process = started.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            started.callback(process.kill)
        yield


def rate(data: Path, run: Path, setting: dict[str, str]) -> float:
    """Return the tokens a second of the steps that count."""
    words = sets("model.vocab_size=4096", "train.log_every=1", "train.eval_every=0", "train.save_every=0",
                 f"train.stop_after={STEPS}", "train.eval_tokens=1000")  # fmt: skip
    where = ("--data", data, "--out", run, "--backend", "torch", "--device", "cpu")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | setting
    call("train", "quickstart", *where, *words, env=environment)
    return statistics.harmonic_mean([row["tokens_per_second"] for row in steps(run)[1:]])


if __name__ == "__main__":
    main()
