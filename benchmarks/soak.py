"""Runs that are killed again and again, with kill -9, and what becomes of them: prints a table and whether all held.

usage: python benchmarks/soak.py [--kills 100] [--seed 0] [--backend torch] [--device cpu] [--work DIR]    (20 minutes)

Runs of one process and of two under torchrun, in turns; with MLX of one. Each life of a run ends in one of three ways:
a process of it, worker or launcher, is killed at a random moment; a worker kills itself at a random place of a save or
of the pruning after it (LOST_FAIL_POINT); or the run reaches its end. Before a kill all processes may be paused for a
while (SIGSTOP); between two lives the newest of several checkpoints may be deleted, or the metrics cut short. Half a
minute after a kill nothing of the run may be left, and its folder may hold no more than three checkpoints. A run that
ended must equal one that nobody disturbed, to the bit.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from commands import arrays, call, command
from common import heading, write_words

from lost.checkpoint import checkpoints
from lost.storage.failpoints import POINTS

STEPS = 1500
CONFIG = f"""\
model: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, vocab_size: 320}}
projection: {{rank: 8, density: 0.1, align: 8}}
data: {{seq_len: 16}}
train: {{batch_size: 4, log_every: 10, eval_every: 500, eval_tokens: 200, save_every: 10, keep_last: 1}}
optimizer: {{lr: 1.0e-2}}
schedule: {{steps: {STEPS}, warmup_steps: 10}}
"""
LEFT = 30  # seconds: a worker that was just being started when its launcher died waits 20 for the launcher's store
WORLDS = {"torch": (1, 2), "mlx": (1,)}  # numbers of processes
SAVING = [point for point in POINTS if point.startswith(("save", "prune"))]


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    harm: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    most_bytes: int = 0


def main() -> None:
    """Kill, start again, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=WORLDS, default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="soak-"))
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    chance, tally, number = random.Random(options.seed), Tally(), 0
    worlds, backend, device = WORLDS[options.backend], options.backend, options.device
    expected = {world: undisturbed(work, world, backend, device) for world in worlds}
    one_checkpoint = sum(len(array) for array in expected[1].values())
    while tally.kills.total() < options.kills:
        world, run = worlds[number % len(worlds)], work / f"run-{number}"
        while not live(work, run, world, backend, device, chance, tally):
            print(f"{tally.kills.total()} kills, {tally.ended.total()} runs ended", file=sys.stderr, flush=True)
        if arrays(run, STEPS) != expected[world]:
            tally.faults.append(f"{run} ({world} processes) ended otherwise than the undisturbed run")
        tally.ended[world] += 1
        number += 1
    report(tally, one_checkpoint)
    sys.exit(1 if tally.faults else 0)


def prepare(work: Path) -> None:
    """Write a configuration and a little text, and prepare that."""
    write_words(work / "text.txt", 40)
    (work / "soak.yaml").write_text(CONFIG)
    if not (work / "data").exists():
        call("prepare", work / "text.txt", "--out", work / "data", "--vocab-size", 320)


def training(work: Path, run: Path, backend: str, device: str) -> list[object]:
    """Return the words that start a run, or go on with it."""
    where = ("--data", work / "data", "--out", run, "--backend", backend, "--device", device)
    return ["train", work / "soak.yaml", *where]


def undisturbed(work: Path, world: int, backend: str, device: str) -> dict[str, bytes]:
    """Return how a run ends that nobody kills."""
    run = work / f"undisturbed-{world}"
    call(*training(work, run, backend, device), workers=world)
    return arrays(run, STEPS)


def live(work: Path, run: Path, world: int, backend: str, device: str, chance: random.Random, tally: Tally) -> bool:
    """Start a run and kill something; return whether it reached its end before that."""
    environment, moment = dict(os.environ), 0.0
    if chance.random() < 0.5:
        point, rank = chance.choice(SAVING), chance.randrange(world)
        if point not in ("save.file", "save.arrays"):
            rank = 0  # which does the rest
        environment["LOST_FAIL_POINT"] = f"{point}:{chance.randint(1, 40)}=kill@{rank}"
    else:
        moment = chance.uniform(0.5, 20)
    with subprocess.Popen(
        command(*training(work, run, backend, device), workers=world),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        began = time.monotonic()
        while process.poll() is None and not (moment and time.monotonic() - began > moment):
            time.sleep(0.02)
        if process.returncode == 0:
            return True
        if process.returncode is None:
            if chance.random() < 0.3:
                pause(processes(run), chance.uniform(0.5, 3))
                tally.harm["all paused"] += 1
            own = [number for number in processes(run) if number != process.pid]
            target = chance.choice([process.pid, *own])
            tally.kills["launcher" if world > 1 and target == process.pid else f"worker of {world}"] += 1
            kill(target)
            if target != process.pid and world > 1 and chance.random() < 0.5:
                kill(process.pid)  # both, as when a machine goes down
        elif "LOST_FAIL_POINT" in environment:
            tally.kills[f"{environment['LOST_FAIL_POINT'].partition(':')[0]} of {world}"] += 1
        else:
            tally.faults.append(f"{run} ended by itself, with {process.returncode}")
        until = time.monotonic() + 40  # torchrun gives the others 30 seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
    until = time.monotonic() + LEFT
    while processes(run) and time.monotonic() < until:
        time.sleep(0.05)
    for stray in processes(run):
        tally.faults.append(f"process {stray} of {run} was left {LEFT} seconds after its launcher")
        kill(stray)
    folders = [path for path in (run / "checkpoints").glob("*") if path.is_dir()]
    if len(folders) > 3:
        tally.faults.append(
            f"{run} holds {len(folders)} checkpoints, whole or not: {sorted(path.name for path in folders)}"
        )
    tally.most_bytes = max(tally.most_bytes, sum(path.stat().st_size for path in run.rglob("*") if path.is_file()))
    whole, metrics = checkpoints(run / "checkpoints"), run / "metrics.jsonl"
    if len(whole) > 1 and chance.random() < 0.2:
        shutil.rmtree(whole[-1])
        tally.harm["newest checkpoint deleted"] += 1
    if metrics.exists() and chance.random() < 0.2:
        os.truncate(metrics, chance.randrange(metrics.stat().st_size + 1))
        tally.harm["metrics cut short"] += 1
    return False


def pause(numbers: list[int], seconds: float) -> None:
    """Stop processes, and let them go on later."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGSTOP)
    time.sleep(seconds)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGCONT)


def processes(run: Path) -> list[int]:
    """Return the processes that name a run's folder on their command line."""
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    return [int(number) for number, *words in lines if str(run) in words and "<defunct>" not in words]


def kill(number: int) -> None:
    """End a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def report(tally: Tally, one_checkpoint: int) -> None:
    """Print what happened."""
    print(f"{heading('Soak')}; {tally.kills.total()} times kill -9\n")
    print("| killed | times |\n| --- | --- |")
    for name, times in sorted(tally.kills.items()):
        print(f"| {name} | {times} |")
    print("\nOther harm: " + (", ".join(f"{name} {times}" for name, times in sorted(tally.harm.items())) or "none"))
    ended = ", ".join(f"{count} of {world}" for world, count in sorted(tally.ended.items()))
    print(f"\nRuns that ended, by their number of processes: {ended}; each compared with one that nobody disturbed.")
    print(f"Most bytes in a run's folder: {tally.most_bytes:,} (arrays of one checkpoint: {one_checkpoint:,}).\n")
    print("\n".join(f"- {fault}" for fault in tally.faults) or "Every one equal to the bit; nothing left running.")


if __name__ == "__main__":
    main()
