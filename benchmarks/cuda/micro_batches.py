"""Tokens a second of the 1B shape by how many sequences are computed at once."""

import argparse
from typing import Any

from part import Tell, begin, known, table
from steps import GIB, asked

TITLE = "Sequences at once"


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Measure LOST with each number; what doesn't fit says so."""
    model, sizes = ("quickstart", (1, 2)) if options.small else ("llama_1b_paper", (16, 64, 32, 128, 8))
    found: dict[str, Any] = {"model": model, "sizes": {}}
    for size in sizes:
        sets = (f"train.micro_batch_size={size}",)
        found["sizes"][size] = asked(model, "lost", options.device, max(sizes), *sets, rounds=3)
        tell(found)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""
    rows: list[list[object]] = []
    for size, answer in sorted(found.get("sizes", {}).items(), key=lambda item: int(item[0])):
        if "reason" in answer:
            rows.append([size, None, None, None, None, answer["reason"][:160]])
            continue
        row = answer["results"]["lost"]
        peak = row["peak_memory_bytes"]
        rows.append([
            size, f"{row['tokens_per_second']:,.0f}", known("{:.1%}", row["mfu"]), known("{:.2f}", peak and peak / GIB),
            f"{row['planned_memory_bytes'] / GIB:.2f}", "",
        ])  # fmt: skip
    return table([f"{found.get('model')}, LOST: at once", "tokens/s", "MFU", "peak, GiB", "planned", ""], rows)


if __name__ == "__main__":
    begin(measured)
