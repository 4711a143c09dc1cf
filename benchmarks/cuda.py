"""LOST beside dense, CoLA and SLTrain on a CUDA card: tokens/s, MFU and peak memory; and where a LOST step's time goes.

usage: python benchmarks/cuda.py [--help]        (under 10 minutes; writes cuda.json and cuda.md to benchmarks/results)

Each model is measured by `lost bench` in a process of its own, its kinds taking turns. Where they don't fit together,
each is measured alone; what doesn't fit alone, or fails, gets a row that says so.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings

GIB = 2**30
# What a kernel, or on a CPU an operator, is for; the first that fits counts.
PARTS = {
    "attention": re.compile(r"flash|fmha|attention|sdpa", re.I),
    "GEMM": re.compile(r"gemm|nvjet|cutlass|xmma|wgmma|cublas|splitk|^aten::(mm|addmm|bmm|baddbmm)_?$", re.I),
    "optimizer": re.compile(r"adam|multi_tensor|foreach", re.I),
    "copies": re.compile(r"memcpy|memset|copy", re.I),
}


def main() -> None:
    """Measure, write after each model, profile."""
    options = arguments()
    deadline = time.monotonic() + 60 * options.minutes
    answers: list[dict[str, Any]] = []
    for model in options.models.split(","):
        found = measured(model, options, deadline)
        answers += found
        write(options.out, {"command": sys.argv, "answers": answers})
        print(table(found), flush=True)
    done = [each["model"] for each in answers if "lost" in each.get("results", {})]
    if done and time.monotonic() < deadline:
        found = {"model": done[-1], **profiled(done[-1], options)}
        write(options.out, {"command": sys.argv, "answers": answers, "profile": found})


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default="llama_60m,llama_350m,llama_1b")
    parser.add_argument("--kinds", default="dense,cola,sltrain,lost")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=128, help="sequences a step, in micro-batches as configured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `lost bench`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def measured(model: str, options: argparse.Namespace, deadline: float) -> list[dict[str, Any]]:
    """Return the answers about one model: one where its kinds fit together, else one a kind."""
    together = asked(model, options.kinds, options, deadline)
    if "reason" not in together or "," not in options.kinds:
        return [together]
    print(f"{model}, kinds together: {together['reason']}", file=sys.stderr)
    return [asked(model, kind, options, deadline) for kind in options.kinds.split(",")]


def asked(model: str, kinds: str, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Return `lost bench`'s answer with `results`, or a `reason` why there is none."""
    command = [sys.executable, "-m", "lost", "bench", model, "--model", "--json", "--backend", "torch"]
    command += ["--kinds", kinds, "--device", options.device, "--dtype", options.dtype]
    command += ["--batch", str(options.batch), "--rounds", str(options.rounds)]
    command += [word for each in options.set for word in ("--set", each)]
    print(f"$ lost {' '.join(command[3:])}", file=sys.stderr, flush=True)
    found = {"model": model, "kinds": kinds.split(",")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return {**found, "reason": "no time left"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {**found, "reason": lines[-1]}
    value = json.loads(done.stdout)
    machine = {key: value[key] for key in ("versions", "device_name", "dtype")}
    return {**found, "machine": machine, **value["model"]}


def table(answers: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| model | kind | sequences a step, at once | ms a step | 25-75 % | / dense | tokens/s | MFU | peak, GiB | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for answer in answers:
        for kind in answer["kinds"]:
            if "reason" in answer:
                lines.append(
                    f"| {answer['model']} | {kind} |" + " |" * 7 + f" {answer['reason'][:160].replace('|', '/')} |"
                )
                continue
            row = answer["results"][kind]
            times = {name: value * 1e3 for name, value in row["seconds"].items()}
            cells = [
                answer["model"],
                kind,
                f"{answer['batch_size']}, {answer['micro_batch_size']}",
                f"{times['median']:.1f}",
                f"{times['p25']:.1f}-{times['p75']:.1f}",
                known("{:.2f}", row["ratio_to_dense"]),
                f"{row['tokens_per_second']:,.0f}",
                known("{:.1%}", row["mfu"]),
                known("{:.2f}", row["peak_memory_bytes"] and row["peak_memory_bytes"] / GIB),
                "" if len(answer["kinds"]) > 1 else "alone, not in turns with the others",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def known(form: str, value: float | None) -> str:
    """Return a number, or nothing where it isn't known."""
    return "" if value is None else form.format(value)


def write(folder: Path, value: dict[str, Any]) -> None:
    """Write cuda.json and cuda.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.json").write_text(json.dumps(value, indent=1) + "\n")
    machines = [answer["machine"] for answer in value["answers"] if "machine" in answer]
    lines = [f"`python {' '.join(value['command'])}`, {time.strftime('%Y-%m-%d')}"]
    if machines:
        versions = ", ".join(f"{name} {version}" for name, version in machines[0]["versions"].items())
        lines[0] += f"; {machines[0]['device_name']}, {versions}, {machines[0]['dtype']}"
    lines += ["", table(value["answers"])]
    if "profile" in value:
        found = value["profile"]
        shares = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
        lines += ["", f"One LOST step of {found['model']}, by its {found['of']}: {shares}."]
    (folder / "cuda.md").write_text("\n".join(lines) + "\n")


def profiled(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print the profile of one LOST step, and return the share of its time by part."""
    config = settings(model, options.set, options.device, options.dtype, options.batch)
    config = config.replace("projection", kind="lost")
    engine, batches = TorchEngine(config, options.device), list(random_batches(config))
    engine.load(random_parameters(config))

    def step() -> float:
        began = time.perf_counter()
        engine.step(batches, sum(batch.predictions for batch in batches), 1e-5).wait()
        return time.perf_counter() - began

    step()
    unwatched = step()
    on_card = options.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities, acc_events=True) as seen:
        step()
    rows = seen.key_averages()
    order = "self_device_time_total" if on_card else "self_cpu_time_total"
    print(rows.table(sort_by=order, row_limit=20, max_name_column_width=70))
    # A card's kernels have rows of their own; those of the operators that launched them would count them again.
    kind = DeviceType.CUDA if on_card else DeviceType.CPU
    times: dict[str, float] = defaultdict(float)
    for row in rows:
        if row.device_type == kind and not row.is_user_annotation:
            part = next((name for name, pattern in PARTS.items() if pattern.search(row.key)), "the rest")
            times[part] += getattr(row, order)
    total = sum(times.values())
    shares = {name: value / total for name, value in sorted(times.items(), key=lambda item: -item[1])}
    what = "kernels' time" if on_card else "operators' own time"
    print(f"one LOST step of {model}: {unwatched * 1e3:.1f} ms unwatched; {what} {total / 1e3:.1f} ms")
    for name, share in shares.items():
        print(f"  {name:18} {share:6.1%}")
    return {"of": what, "step_seconds": unwatched, "seconds": total / 1e6, "shares": shares}


if __name__ == "__main__":
    main()
