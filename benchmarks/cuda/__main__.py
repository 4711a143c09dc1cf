"""What a CUDA card does with LOST: its ceilings, steps beside dense, CoLA and SLTrain, exactness, sharding, a training.

usage: python benchmarks/cuda [--help] [PART...]        (under 9 minutes on one card)

Writes one folder, benchmarks/results/cuda-CARD: README.md with every table, and a JSON file a part. Each part runs in a
process of its own, so that one that fails or has no time left costs only its own rows. `--small` is for a try on a CPU.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# In the order of their worth: with how many seconds each may take, on a card.
PARTS = {
    "ceilings": 45,  # what products, copies and launches reach: the measure for all that follows
    "first_models": 150,  # the shipped 1B shape, LOST beside dense, compiled
    "launches": 60,  # kernels of a block, eager and compiled
    "resume": 240,  # killed and resumed: equal to the bit, or how far off
    "sharded": 150,  # the path of many cards, on one
    "training": 120,  # the demo's recipe with its loss, LOST beside dense
    "shares": 75,  # where the time of a step goes
    "micro_batches": 90,  # tokens a second by sequences at once
    "more_models": 300,  # other sizes and kinds, and uncompiled
}


def main() -> None:
    """Run each part while there is time, and write after each."""
    options = arguments()
    name = device_name(options.device)
    out = options.out or HERE.parent / "results" / f"cuda-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    for part in options.parts or PARTS:
        left = deadline - time.monotonic()
        limit = min(left, PARTS[part]) if options.device.startswith("cuda") else left
        print(f"{part}: at most {limit:.0f} s", file=sys.stderr, flush=True)
        found = ran(part, options, limit)
        (out / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "README.md").write_text(report(out, name))
    print((out / "README.md").read_text())


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.7, help="begin nothing new after these")
    parser.add_argument("--small", action="store_true", help="sizes for a try on a CPU; figures mean nothing")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; expected some of {', '.join(PARTS)}")
    return options


def ran(part: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return what a part found, with how long it took; and `stopped`, why, where it didn't come to its end.

    A part prints all that it has found so far, as a line of JSON, whenever it knows more.
    """
    command = [sys.executable, str(HERE / f"{part}.py"), "--device", options.device]
    command += ["--small"] if options.small else []
    if seconds < 5:
        return {"stopped": "no time was left"}
    began, stopped = time.monotonic(), ""
    code, output, errors = called(command, seconds)
    if code is None:
        stopped = f"stopped after {seconds:.0f} s"
    elif code:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["without a word"]
        stopped = f"exit code {code}: {last[0][:300]}"
        print(errors.decode(errors="replace")[-4000:], file=sys.stderr)
    lines = [line for line in output.decode(errors="replace").splitlines() if line.startswith("{")]
    found = json.loads(lines[-1]) if lines else {}
    found |= {"stopped": stopped} if stopped else {}
    return found | {"took_seconds": round(time.monotonic() - began, 1)}


def called(command: list[str], seconds: float) -> tuple[int | None, bytes, bytes]:
    """Return a command's exit code, None if it took too long, and what it wrote to both streams.

    Then, and on Ctrl-C, all that it had started ends with it, or would compute beside the next part.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return (None, *process.communicate())
    return process.returncode, output, errors


def device_name(device: str) -> str:
    """Return what the device's vendor calls it."""
    from lost.backends.torch.bench import machine

    return machine(device).device_name


def report(folder: Path, name: str) -> str:
    """Return README.md, from the parts that the folder holds."""
    import torch

    from lost import __version__

    lines = [f"# {name}", "", f"`python benchmarks/cuda`, {time.strftime('%Y-%m-%d')}; lost {__version__}, PyTorch "]
    lines[-1] += (
        f"{torch.__version__}, Python {sys.version.split()[0]}. Each part's figures: the JSON file of its name."
    )
    for part in PARTS:
        if (path := folder / f"{part}.json").exists():
            module, found = import_module(part), json.loads(path.read_text())
            lines += ["", f"## {module.TITLE}"]
            if found.keys() - {"stopped", "took_seconds"}:
                lines += ["", *module.lines(found)]
            if "stopped" in found:
                lines += ["", f"Not to its end: {found['stopped']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
