"""The head's loss, forward and backward: ours by chunk size, torch's chunked one, and full logits.

usage: python benchmarks/head_loss.py
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import heading

from lost.backends.torch.kernels import loss

SHAPES = ((8192, 256, 2048), (32000, 512, 1024))
ROUNDS = 9


def main() -> None:
    """Print one table: medians in milliseconds, methods interleaved, the first round discarded."""
    torch.manual_seed(0)
    print(heading("The head's loss", "torch"), end=", ")
    print(f"{torch.get_num_threads()} threads, float32; medians of {ROUNDS - 1} in ms\n")
    columns: dict[str, list[str]] = defaultdict(list)
    for vocab, hidden, tokens in SHAPES:
        x = torch.randn(tokens, hidden, requires_grad=True)
        weight = (torch.randn(vocab, hidden) * 0.02).requires_grad_()
        targets = torch.randint(0, vocab, (tokens,))
        times = defaultdict(list)
        for _ in range(ROUNDS):
            for name, call in methods(x, weight, targets).items():
                x.grad = weight.grad = None
                began = time.perf_counter()
                call().backward()
                times[name].append(time.perf_counter() - began)
        for name, values in times.items():
            columns[name].append(f"{statistics.median(values[1:]) * 1e3:.0f}")
    print("| method | " + " | ".join(f"{t} tokens, {h} wide, {v} entries" for v, h, t in SHAPES) + " |")
    print("| --- |" + " --- |" * len(SHAPES))
    for name, cells in columns.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def methods(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Return what is compared, by name."""

    def ours(entries: int) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            loss.logits_at_once = lambda *place: entries
            return loss.head_loss(x, weight, targets)

        return call

    found = {f"ours, {4 << power - 20} MiB of logits": ours(1 << power) for power in (20, 21, 22, 23, 24, 25)}
    found["full logits, cross_entropy"] = lambda: F.cross_entropy(F.linear(x, weight), targets, reduction="sum")
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        found["linear_cross_entropy, its own chunks"] = lambda: F.linear_cross_entropy(
            x, weight, targets, reduction="sum", options=options
        )
    return found


if __name__ == "__main__":
    main()
