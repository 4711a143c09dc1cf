"""What the card reaches at all: matrix products by shape, copies, launches."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from part import Tell, begin, known, table

from lost.model.load import load_config
from lost.model.parameters import projections
from lost.planning.peak_flops import peak_flops

TITLE = "Ceilings"
SECONDS = 0.4  # that each figure is measured for, at least


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Measure products, copies, launches."""
    device = options.device
    cuda = device.startswith("cuda")
    found: dict[str, Any] = {"peak_flops": peak_flops(torch.cuda.get_device_name(device), "bfloat16") if cuda else None}
    found["launch_seconds"] = launch(device)
    size = 2**22 if options.small else 2**30
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    found["copied_bytes_per_second"] = 2 * size / timed(lambda: target.copy_(source), device)  # read and written
    source = target = torch.empty(0)  # so that products have their room
    tell(found)
    found["products"] = []
    for name, rows, inner, columns in shapes(options.small):
        left, right = (
            torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in ((rows, inner), (columns, inner))
        )
        seconds = timed(lambda left=left, right=right: left @ right.T, device)
        found["products"].append({"of": name, "shape": [rows, inner, columns], "seconds": seconds})
        tell(found)


def shapes(small: bool) -> list[tuple[str, int, int, int]]:
    """Return products by name: rows x inner times inner x columns."""
    if small:
        return [("square", 256, 256, 256), ("a layer's down", 512, 256, 64)]
    config = load_config("llama_1b_paper", [])
    parts = {each.name.rpartition(".")[2]: each.tensors() for each in projections(config)}
    (rank, inner), (wide, joined) = parts["gate_proj"]["down"].shape, parts["gate_proj"]["up"].shape
    tokens = 64 * 256
    return [
        ("square", 8192, 8192, 8192),
        ("1B dense gate", tokens, inner, wide),
        ("1B LOST gate, down", tokens, inner, rank),
        ("1B LOST gate, up", tokens, joined, wide),
        ("the same, one column less: not aligned", tokens, joined - 1, wide - 1),
        ("1B LOST gate, gradient of up", wide, tokens, joined),
        ("1B head, a chunk", 2048, inner, 32000),
    ]


def launch(device: str) -> float:
    """Return the host's seconds for a kernel that has nothing to do; of three tries the least, the first loads it."""
    tiny, times, tries = torch.zeros(1, device=device), 2000, []
    for _ in range(3):
        wait(device)
        began = time.perf_counter()
        for _ in range(times):
            tiny.add_(1)
        tries.append((time.perf_counter() - began) / times)
    wait(device)
    return min(tries)


def timed(call: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, when it is made again and again."""
    for _ in range(3):
        call()
    wait(device)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in range(10):
            call()
        times += 10
        wait(device)
    return (time.perf_counter() - began) / times


def wait(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the tables."""
    peak = found["peak_flops"]
    said = [f"A launch takes {found['launch_seconds'] * 1e6:.1f} us of the host; a copy moves "]
    said[0] += f"{found['copied_bytes_per_second'] / 1e9:,.3g} GB/s, reads and writes counted. Products in bfloat16:"
    rows = []
    for each in found.get("products", []):
        rows_, inner, columns = each["shape"]
        rate = 2 * rows_ * inner * columns / each["seconds"]
        share = known("{:.0%}", rate / peak if peak else None)
        rows.append([each["of"], f"{rows_} x {inner} x {columns}", f"{each['seconds'] * 1e3:.3f}",
                     f"{rate / 1e12:,.3g}", share])  # fmt: skip
    return [*said, "", *table(["product", "shape", "ms", "TFLOP/s", "of the data sheet's peak"], rows)]


if __name__ == "__main__":
    begin(measured)
