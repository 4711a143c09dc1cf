"""What `train.checkpoint_activations` keeps and costs: a LOST model of the 130M shape, PyTorch on a CPU, float32.

usage: python benchmarks/policies.py > benchmarks/results/policies.md        (minutes on two cores)
"""

from functools import partial

import numpy as np
import torch
from common import heading

from lost.backends.torch.bench import saved_bytes
from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings
from lost.bench.timing import summarize, time_interleaved

POLICIES = ("none", "narrow", "full")
BATCH, TOKENS, ROUNDS = 4, 256, 7
MIB = 2**20


def main() -> None:
    """Print one table: kept bytes, time, and how far losses and gradients of a first step are from those of `none`."""
    torch.manual_seed(0)
    engines, saved = {}, {}
    for policy in POLICIES:
        config = settings(
            "llama_130m_paper",
            ["projection.kind=lost", "train.grad_clip=0"],
            "cpu",
            batch=BATCH,
            seq_len=TOKENS,
            checkpoint_activations=policy,
        )
        engines[policy] = TorchEngine(config, "cpu")
        engines[policy].load(random_parameters(config))
        batches = list(random_batches(config))
        saved[policy] = saved_bytes(engines[policy], batches[0]) or 0
    losses, gradients = {}, {}
    for policy, engine in engines.items():
        losses[policy] = engine.step(batches, BATCH * TOKENS, 0.0).wait()[0]
        # After one step the first moments are a tenth of the gradients.
        gradients[policy] = {
            name: np.array(value) for name, value in engine.optimizer_state() if name.endswith("exp_avg")
        }

    def apart(policy: str) -> float:
        return max(
            float(np.linalg.norm(value - gradients["none"][name]) / np.linalg.norm(gradients["none"][name]))
            for name, value in gradients[policy].items()
        )

    distances = {policy: apart(policy) for policy in POLICIES}
    gradients.clear()
    steps = {policy: partial(lambda each: each.step(batches, BATCH * TOKENS, 0.0).wait(), engines[policy])
             for policy in POLICIES}  # fmt: skip
    times = time_interleaved(steps, ROUNDS)
    print(f"{heading('What a policy keeps, and costs', 'torch')}, {torch.get_num_threads()} threads, float32\n")
    print(
        f"llama_130m_paper, LOST, {BATCH} x {TOKENS} tokens a step; steps in turns, median and quartiles of {ROUNDS}. "
        "Kept: bytes that the forward pass leaves for the backward pass. Loss and gradients: of a first step, relative "
        "distance from those of `none`, of the gradients that of the farthest parameter.\n"
    )
    print("| policy | kept, MiB | beside none | step, ms | 25-75 % | beside none | loss | gradients |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    base = summarize(times, "none")["seconds"]["median"]
    for policy in POLICIES:
        seconds = summarize(times, policy)["seconds"]
        print(
            f"| {policy} | {saved[policy] / MIB:.0f} | {saved[policy] / saved['none']:.2f} "
            f"| {seconds['median'] * 1e3:.0f} | {seconds['p25'] * 1e3:.0f}-{seconds['p75'] * 1e3:.0f} "
            f"| {seconds['median'] / base:.2f} | {abs(losses[policy] / losses['none'] - 1):.0e} "
            f"| {distances[policy]:.0e} |"
        )


if __name__ == "__main__":
    main()
