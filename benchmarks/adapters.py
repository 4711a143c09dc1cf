"""Adapters beside training all weights: validation loss after 100 steps on prompts and completions, three seeds.

usage: python benchmarks/adapters.py DATA SPEECHES OUT > benchmarks/results/adapters.md

DATA is a prepared set, on which a small dense model is trained first; SPEECHES a play as text, speeches between empty
lines, of which each is to be learned as the answer to the one before. OUT holds runs; the same command goes on with it.
"""

import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from commands import lost
from common import heading

from lost.checkpoint import find_checkpoint
from lost.planning.budget import budget
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_rows

STEPS, RANK, SEEDS = 100, 8, (0, 1, 2)
BASE = {
    "model": {
        **{"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"vocab_size": 5632, "max_position_embeddings": 256},
    },
    "projection": {"kind": "dense", "init_std": "fan_in"},
    "data": {"seq_len": 128},
    "train": {"batch_size": 8, "log_every": 100, "eval_every": 0, "save_every": 200, "keep_last": 1},
    "optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.01},
    "schedule": {"name": "cosine", "steps": 1000, "warmup_steps": 50},
}
TUNE = {
    "data": {"seq_len": 128},
    "train": {"batch_size": 8, "log_every": 50, "eval_every": 0, "save_every": 0},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "cosine", "steps": STEPS, "warmup_steps": 10},
}
TRIED: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "lora": ({"kind": "lora"}, (2e-3, 5e-3, 1e-2, 2e-2)),
    "pissa": ({"kind": "pissa"}, (2e-3, 5e-3, 1e-2, 2e-2)),
    "eva": ({"kind": "eva"}, (5e-3, 1e-2, 2e-2)),
    "eva, ranks by layer": ({"kind": "eva", "rho": 2.0}, (5e-3, 1e-2, 2e-2)),
    "lora_xs": ({"kind": "lora_xs"}, (2e-2, 5e-2, 1e-1, 2e-1)),
    "lora_sb": ({"kind": "lora_sb"}, (2e-2, 5e-2, 1e-1, 2e-1)),
    "svfit": ({"kind": "svfit"}, (5e-2, 1e-1, 2e-1, 5e-1)),
    "lora_xs, rank 52": ({"kind": "lora_xs", "rank": 52}, (5e-3, 1e-2, 2e-2, 5e-2)),
    "lora_sb, rank 52": ({"kind": "lora_sb", "rank": 52}, (5e-3, 1e-2, 2e-2, 5e-2)),
    "svfit, rank 128": ({"kind": "svfit", "rank": 128}, (2e-2, 5e-2, 1e-1, 2e-1)),
    "lora, rank 1": ({"kind": "lora", "rank": 1}, (1e-2, 2e-2, 5e-2)),
    "dense": ({"kind": "dense"}, (2e-3, 5e-3, 1e-2)),
}  # 52: as many numbers as lora of rank 8; 128: all singular values


def examples(speeches: Path, out: Path) -> Path:
    """Write each speech as the completion of the one before."""
    text = [each.strip() for each in speeches.read_text(encoding="utf-8").split("\n\n") if each.strip()]
    pairs = ({"prompt": f"{one}\n\n", "completion": two} for one, two in pairwise(text))
    out.write_text("".join(json.dumps(each) + "\n" for each in pairs))
    return out


def tuned(run: Path, projection: dict[str, Any], rate: float, seed: int) -> float:
    """Return the validation loss of a run, trained if it isn't there yet."""
    out = run.parent
    sets = {f"projection.{key}": value for key, value in ({"rank": RANK} | projection).items()}
    words = [f"--set={key}={value}" for key, value in (sets | {"optimizer.lr": rate, "train.seed": seed}).items()]
    where = ("--init-from", out / "base", "--data", out / "examples", "--out", run)
    if not (run / "checkpoints" / f"step-{STEPS:08d}").exists():
        lost("train", out / "tune.yaml", *where, *words, "--threads", 1, "--backend", "torch")
    return next(float(row["validation_loss"]) for row in read_rows(run / METRICS) if "validation_loss" in row)


def main() -> None:
    """Train what isn't there, and print the table."""
    data, speeches, out = map(Path, sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    for name, config in (("base", BASE), ("tune", TUNE)):
        (out / f"{name}.yaml").write_text(yaml.safe_dump(config))
    lost("train", out / "base.yaml", "--data", data, "--out", out / "base", "--threads", 1, "--backend", "torch")
    if not (out / "examples").exists():
        file = examples(speeches, out / "examples.jsonl")
        held = ("--valid-fraction", 0.05, "--out", out / "examples")
        lost("prepare", file, "--examples", "--tokenizer", out / "base", *held)
    before = lost("eval", out / "base", "--data", out / "examples", "--threads", 1, "--backend", "torch")
    print(f"{heading('Adapters', 'torch', words='DATA SPEECHES OUT')}, one thread.\n")
    size = budget(find_checkpoint(out / "base")[0].config).parameters
    print(
        f"A dense model of {size:,} parameters, trained on 1.02M tokens of DATA; then 100 steps of 8 x 128 tokens of "
        f"speeches, AdamW, adapters of rank {RANK}, else as named, with alpha 16. Validation loss in nats a target: "
        f"{before['loss']:.4f} before. All rates with one seed, then the best one's mean and deviation of seeds "
        f"{', '.join(map(str, SEEDS))}.\n"
    )
    print("| kind | trained | by rate | best rate | mean | deviation |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (projection, rates) in TRIED.items():
        runs = out / name.replace(", ", "-").replace(" ", "_")
        found = {rate: tuned(Path(f"{runs}-{rate:g}-{SEEDS[0]}"), projection, rate, SEEDS[0]) for rate in rates}
        best = min(found, key=lambda rate: found[rate])
        losses = [found[best], *(tuned(Path(f"{runs}-{best:g}-{seed}"), projection, best, seed) for seed in SEEDS[1:])]
        config = find_checkpoint(Path(f"{runs}-{best:g}-{SEEDS[0]}"))[0].config
        shown = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in found.items())
        print(
            f"| {name} | {budget(config).trained:,} | {shown} | {best:g} | {statistics.mean(losses):.4f} | "
            f"{statistics.stdev(losses):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
