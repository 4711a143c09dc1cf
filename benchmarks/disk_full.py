"""A disk that is full at each size in turn, and what becomes of a run and of a prepared set there: prints a table.

usage: python benchmarks/disk_full.py [--sizes 38] [--backend torch]     (Linux, as root: it mounts a tmpfs; 10 minutes)

A disk of each size is mounted, the command started there until it is refused or done, the disk is made large, and the
same command started again. What is there after the refusal must be whole, and what is there at the end must equal what
the command makes where there is room, to the bit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import arrays, command
from common import heading, write_words

STEPS = 40
CONFIG = f"""\
model: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, vocab_size: 320}}
projection: {{rank: 8, density: 0.1, align: 8}}
data: {{seq_len: 16}}
train: {{batch_size: 4, log_every: 1, eval_every: 20, eval_tokens: 200, save_every: 10, keep_last: 1}}
optimizer: {{lr: 1.0e-2}}
schedule: {{steps: {STEPS}, warmup_steps: 10}}
"""


def main() -> None:
    """Fill, make room, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=38)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="disk-full-"))
    write_inputs(work)
    prepare = ["prepare", work / "text.txt", "--vocab-size", 320, "--workers", 1, "--out"]
    train = ["train", work / "run.yaml", "--data", work / "data", "--backend", options.backend, "--out"]
    assert run([*prepare, work / "data"]) == run([*train, work / "whole"]) == 0
    print(f"{heading('Full disks', options.backend)}\n")
    print("| command | disks | KiB | refused | done at once |\n| --- | --- | --- | --- | --- |")
    faults = []
    for name, words, whole, times in (("train", train, work / "whole", 3), ("prepare", prepare, work / "data", 2)):
        most = times * sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        sizes = [4 * round(most * part / options.sizes / 4096) + 4 for part in range(options.sizes)]
        codes: Counter[int] = Counter()
        for size in sizes:
            with disk(work / "disk", size) as place:
                codes[code := run([*words, place / "out"])] += 1
                found = wrong(place, code, [*words, place / "out"], state(whole))
                faults += [f"{name} on {size} KiB: {each}" for each in found]
        print(f"| {name} | {len(sizes)} | {sizes[0]} to {sizes[-1]} | {codes[2]} | {codes[0]} |", flush=True)
    print("\n" + ("\n".join(f"- {fault}" for fault in faults) or "Each ended equal to the bit once there was room."))
    sys.exit(1 if faults else 0)


def wrong(place: Path, code: int, words: list[object], meant: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong after a command on a small disk, and after the same command once it is large."""
    out = place / "out"
    if code not in (0, 2):
        yield f"exit code {code}"
    if [*out.glob("checkpoints/step-*")] and run(["verify", out]):
        yield "what is left is not whole"
    subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)
    if code and run(words):
        yield "it did not go on"
    elif state(out) != meant:
        yield "it ended otherwise"


def write_inputs(work: Path) -> None:
    """Write a configuration and a little text."""
    (work / "run.yaml").write_text(CONFIG)
    write_words(work / "text.txt", 40)


def run(words: list[object]) -> int:
    """Return a command's exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*words), capture_output=True, env=environment).returncode


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """Mount an empty disk of so many KiB."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def state(out: Path) -> dict[str, bytes]:
    """Return the arrays at the end of a run, or the files of a prepared set but for its description."""
    if not (out / "checkpoints").exists():
        return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".bin", ".model")}
    return arrays(out, STEPS)


if __name__ == "__main__":
    main()
