"""Where the time of a 1B step goes, by what its kernels are for; LOST beside dense."""

import argparse
import re
import time
from collections import defaultdict
from typing import Any

from part import Tell, begin, table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings

TITLE = "Shares of a step"
# What a kernel, or on a CPU an operator, is for; the first that fits counts.
PARTS = {
    "attention": re.compile(r"flash|fmha|attention|sdpa", re.I),
    "GEMM": re.compile(r"gemm|nvjet|cutlass|xmma|wgmma|cublas|splitk|^aten::(mm|addmm|bmm|baddbmm)_?$", re.I),
    "optimizer": re.compile(r"adam|multi_tensor|foreach", re.I),  # before the head's: their names end in `false>`
    "head": re.compile(r"softmax|nll|cross_entropy|(?<![a-z])(lse|amax)(?![a-z])", re.I),
    "copies": re.compile(r"memcpy|memset|direct_copy|^aten::copy_", re.I),
}


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Profile a step of each kind."""
    model, batch = ("quickstart", 2) if options.small else ("llama_1b_paper", 128)
    found: dict[str, Any] = {"model": model, "kinds": {}}
    for kind in ("lost", "dense"):
        size = ["train.micro_batch_size=2", "model.vocab_size=1024"] if options.small else ["train.micro_batch_size=64"]
        config = settings(model, [f"projection.kind={kind}", *size], options.device, batch=batch)
        found["kinds"][kind] = profiled(config, options.device)
        tell(found)


def profiled(config: Any, device: str) -> dict[str, Any]:
    """Return the share of a step's time by part, and its longest kernels."""
    engine, batches = TorchEngine(config, device), list(random_batches(config))
    engine.load(random_parameters(config))

    def step() -> float:
        began = time.perf_counter()
        engine.step(batches, sum(batch.predictions for batch in batches), 1e-5).wait()
        return time.perf_counter() - began

    step()
    unwatched = min(step(), step())
    on_card = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities, acc_events=True) as seen:
        step()
    # A card's kernels have rows of their own; those of the operators that launched them would count them again.
    kind, key = (DeviceType.CUDA if on_card else DeviceType.CPU), f"self_{'device' if on_card else 'cpu'}_time_total"
    rows = [row for row in seen.key_averages() if row.device_type == kind and not row.is_user_annotation]
    times: dict[str, float] = defaultdict(float)
    for row in rows:
        times[next((name for name, pattern in PARTS.items() if pattern.search(row.key)), "the rest")] += getattr(
            row, key
        )
    total = sum(times.values())
    longest = sorted(rows, key=lambda row: -getattr(row, key))[:15]
    return {
        "step_seconds": unwatched,
        "kernel_seconds": total / 1e6,
        "shares": {name: value / total for name, value in sorted(times.items(), key=lambda item: -item[1])},
        "longest": [[row.key, row.count, getattr(row, key) / 1e6] for row in longest],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table, and below it the longest kernels of LOST's step."""
    kinds = found.get("kinds", {})
    names = list(dict.fromkeys(name for each in kinds.values() for name in each["shares"]))
    rows = [
        [kind, f"{each['step_seconds'] * 1e3:.1f}", f"{each['kernel_seconds'] * 1e3:.1f}",
         *(f"{each['shares'].get(name, 0):.1%}" for name in names)]
        for kind, each in kinds.items()
    ]  # fmt: skip
    said = table([f"{found.get('model')}", "ms a step", "of kernels", *names], rows)
    if "lost" in kinds:
        rows = kinds["lost"]["longest"]
        longest = [[f"`{name[:90]}`", count, f"{seconds * 1e3:.2f}"] for name, count, seconds in rows]
        said += ["", *table(["LOST's longest kernels", "times", "ms"], longest)]
    return said


if __name__ == "__main__":
    begin(measured)
