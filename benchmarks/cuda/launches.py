"""Kernels of one block's forward and backward pass, eager and compiled, by kind, as the profiler sees them."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from part import Tell, begin, table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.model import AttentionContext
from lost.bench.compare import random_parameters
from lost.model.load import load_config

TITLE = "Kernels a block"
KINDS = ("lost", "cola", "dense", "sltrain")


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Count them for each kind, eager and compiled."""
    name = "quickstart" if options.small else "llama_1b_paper"
    found: dict[str, Any] = {"model": name, "kinds": {}}
    for kind in KINDS[:2] if options.small else KINDS:
        for compiled in (False, True):
            sets = [f"projection.kind={kind}", "model.num_hidden_layers=1", f"train.compile={str(compiled).lower()}"]
            sets += ["train.micro_batch_size=2", "train.batch_size=2", "model.vocab_size=512"]
            counts = of_a_block(load_config(name, sets), options.device)
            found["kinds"].setdefault(kind, {})["compiled" if compiled else "eager"] = counts
            tell(found)


def of_a_block(config: Any, device: str) -> list[int]:
    """Return the kernels of the forward and of the backward pass."""
    engine = TorchEngine(config, device)
    engine.load(random_parameters(config))
    trunk, length = engine.model.model, config.data.seq_len
    context = AttentionContext((trunk.cos[:length].to(trunk.dtype), trunk.sin[:length].to(trunk.dtype)))
    x = torch.randn(2, length, config.model.hidden_size, device=engine.device, dtype=trunk.dtype).requires_grad_()
    out: list[torch.Tensor] = []

    def forward() -> None:
        out[:] = [trunk.layers[0](x, context)]

    def backward() -> None:
        out[0].backward(torch.ones_like(out[0]))

    for _ in range(3):  # compiled, and gradients there to be added to
        forward()
        backward()
    counts = [kernels(forward, device), kernels(backward, device)]
    counts[1] -= 1  # the ones
    return counts


def kernels(call: Callable[[], None], device: str) -> int:
    """Return how many kernels a call starts; on a CPU, how many operators."""
    cuda = device.startswith("cuda")
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])], acc_events=True
    ) as seen:
        call()
        if cuda:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    rows = [row for row in seen.key_averages() if row.device_type == kind and not row.is_user_annotation]
    return sum(row.count for row in rows if "Memcpy" not in row.key and "Synchronize" not in row.key)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""
    rows = [
        [kind, *(" + ".join(map(str, each[form])) if form in each else None for form in ("eager", "compiled"))]
        for kind, each in found.get("kinds", {}).items()
    ]
    head = [f"kind, {found.get('model')}", "eager: forward + backward", "compiled"]
    return table(head, rows)


if __name__ == "__main__":
    begin(measured)
