"""One optimizer step of our dense and our LOST 60M model beside transformers' LlamaForCausalLM of the same shape.

usage: python benchmarks/transformers_step.py > benchmarks/results/transformers_step.md        (minutes on two cores)

Theirs is trained as its documentation shows: labels passed, so that it computes its own loss; torch.optim.AdamW as it
is by default, and fused. All of them clip gradients and read the loss. Float32 on a CPU, random weights and tokens.
"""

import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import heading
from transformers import LlamaConfig, LlamaForCausalLM

from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.options import settings
from lost.bench.timing import summarize, time_interleaved

TOKENS, TIMED_BATCH, MEMORY_BATCH, ROUNDS = 256, 4, 16, 7
MIB = 2**20


def ours(kind: str, batch: int) -> Callable[[], object]:
    """Return a step of our model with one kind of projection."""
    config = settings("llama_60m_paper", [f"projection.kind={kind}"], "cpu", batch=batch, seq_len=TOKENS)
    engine, batches = TorchEngine(config, "cpu"), list(random_batches(config))
    engine.load(random_parameters(config))
    return lambda: engine.step(batches, batch * TOKENS, 1e-5).wait()


def theirs(fused: bool | None, batch: int) -> Callable[[], object]:
    """Return a step of transformers' model."""
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            vocab_size=32000,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01, fused=fused)
    tokens = torch.randint(0, 32000, (batch, TOKENS))

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss.item()

    return step


WAYS: dict[str, Callable[[int], Callable[[], object]]] = {
    "transformers, AdamW": partial(theirs, None),
    "transformers, AdamW(fused=True)": partial(theirs, True),
    "lost, dense": partial(ours, "dense"),
    "lost, LOST": partial(ours, "lost"),
}


def peak(name: str) -> tuple[int, int]:
    """Return what this process held at most during a second step, and what it held before the model was made."""
    gc.collect()
    before = status("VmRSS")
    step = WAYS[name](MEMORY_BATCH)
    step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is held now
    step()
    return status("VmHWM"), before


def status(key: str) -> int:
    """Return a line of what Linux tells about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    """Print one table."""
    torch.manual_seed(0)
    times = time_interleaved({name: make(TIMED_BATCH) for name, make in WAYS.items()}, ROUNDS, warm_up=2)
    print(heading("Our step beside transformers'", "torch", "transformers"), end=", ")
    print(f"{torch.get_num_threads()} threads, float32\n")
    print(
        f"Step: {TIMED_BATCH} x {TOKENS} tokens, in turns, median and quartiles of {ROUNDS} after 2 warm-up rounds. "
        f"Peak: of the whole process (VmHWM) during its second step of {MEMORY_BATCH} x {TOKENS} tokens, each in a "
        "process of its own; and less what it held after its imports.\n"
    )
    print("| step of | ms | 25-75 % | beside fused | peak, MiB | less imports, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    middle = summarize(times, "transformers, AdamW(fused=True)")["seconds"]["median"]
    for name in WAYS:
        seconds = summarize(times, name)["seconds"]
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        most, before = map(int, done.stdout.split())
        print(
            f"| {name} | {seconds['median'] * 1e3:.0f} | {seconds['p25'] * 1e3:.0f}-{seconds['p75'] * 1e3:.0f} "
            f"| {seconds['median'] / middle:.2f} | {most / MIB:.0f} | {(most - before) / MIB:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*peak(sys.argv[1]))
    else:
        main()
