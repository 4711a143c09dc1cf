"""What an optimizer costs a step: LOST and dense models of the 60M shape, PyTorch on a CPU, float32.

usage: python benchmarks/optimizers.py > benchmarks/results/optimizers.md        (minutes on two cores)
"""

from functools import partial

import torch
from common import heading

from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings
from lost.bench.timing import summarize, time_interleaved
from lost.optim import state_shapes

KINDS, OPTIMIZERS = ("lost", "dense"), ("adamw", "muon", "spectron")
BATCH, TOKENS, ROUNDS = 4, 256, 9


def main() -> None:
    """Time the steps of all models in turns, and print one table."""
    print(f"{heading('What an optimizer costs a step', 'torch')}, {torch.get_num_threads()} threads, float32\n")
    print(f"llama_60m_paper, {BATCH} x {TOKENS} tokens a step; steps in turns, median and quartiles of {ROUNDS}.\n")
    print("| kind | optimizer | state, M entries | step, ms | 25-75 % | beside adamw |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        steps, entries = {}, {}
        for name in OPTIMIZERS:
            sets = [f"projection.kind={kind}", f"optimizer.name={name}"]
            config = settings("llama_60m_paper", sets, "cpu", batch=BATCH, seq_len=TOKENS)
            engine = TorchEngine(config, "cpu")
            engine.load(random_parameters(config))
            batches = list(random_batches(config))
            steps[name] = partial(lambda each, given: each.step(given, BATCH * TOKENS, 1e-5).wait(), engine, batches)
            entries[name] = sum(int(torch.Size(shape).numel()) for shape in state_shapes(config).values())
        times = time_interleaved(steps, ROUNDS)
        base = summarize(times, "adamw")["seconds"]["median"]
        for name in OPTIMIZERS:
            seconds = summarize(times, name)["seconds"]
            print(
                f"| {kind} | {name} | {entries[name] / 1e6:.1f} | {seconds['median'] * 1e3:.0f} "
                f"| {seconds['p25'] * 1e3:.0f}-{seconds['p75'] * 1e3:.0f} | {seconds['median'] / base:.2f} |"
            )


if __name__ == "__main__":
    main()
