"""Rates that `lost plan --suggest` gives from a smaller tuned model, beside sweeps around them.

usage: python benchmarks/suggested_rates.py DATA WORK [--jobs N] > benchmarks/results/suggested_rates.md

DATA: `lost prepare proposals.train.jsonl.gz --valid proposals.valid.jsonl.gz --vocab-size 5632`. Of each kind a small
model is trained at rates a factor of two apart, until the best is inside; then what is suggested from it for more
tokens, at that rate and at a fourth, half, twice and four times of it. Sweeps stay in WORK: the same command goes on
where it was ended.
"""

import argparse
import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import yaml
from commands import lost
from common import heading

from lost.config import Config
from lost.model.load import load_config

KINDS: dict[str, dict[str, Any]] = {
    "lost": {"rank": 8, "density": 0.03, "align": 8, "short_conv_width": 3},
    "dense": {"kind": "dense", "init_std": "fan_in", "rank": 8},
}
PROXY = {
    "model": {"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"vocab_size": 5632, "use_qk_norm": True},
    "data": {"seq_len": 256},
    "train": {"batch_size": 8, "log_every": 50, "eval_every": 0, "save_every": 0},
    "optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.01},
    "schedule": {"name": "cosine", "steps": 400, "warmup_steps": 40},
}
RATES = [6e-3, 1.2e-2, 2.4e-2]  # of the small model, to begin with
TOKENS = (1e6, 2e6)
AROUND = (0.25, 0.5, 1.0, 2.0, 4.0)


def swept(
    work: Path, name: str, settings: Any, rates: list[float], options: list[str], by: str = "grid"
) -> dict[float, float]:
    """Train at each rate, by `search` at more until the best is inside; return losses of those that didn't diverge."""
    file = work / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"config": settings, by: {"optimizer.lr": rates}}))
    lost("sweep", file, "--out", work / name, *options)
    rows = map(json.loads, (work / name / "results.jsonl").read_text().splitlines())
    return {row["settings"]["optimizer.lr"]: row["loss"] for row in rows if row["loss"] is not None}


def meant(file: Path, command: str) -> Config:
    """Return the configuration that a suggested command trains."""
    words = shlex.split(command)
    return load_config(file, [word for before, word in itertools.pairwise(words) if before == "--set"])


def main(data: Path, work: Path, jobs: int) -> None:
    """Train, and print the table."""
    work.mkdir(parents=True, exist_ok=True)
    where = ["--data", str(data), "--backend", "torch", "--device", "cpu"]
    options = [*where, "--jobs", str(jobs), "--threads", "1"]
    print(f"{heading('Suggested rates beside the best of five', 'torch', words='DATA WORK')}.")
    print("Muon, proposals, one seed; from a model of 2 blocks 32 wide and .8M tokens, tuned.\n")
    print("| kind | width, blocks | tokens, batch | suggested | its loss | best of five | its loss | above it by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, projection in KINDS.items():
        swept(work, f"{kind}-proxy", PROXY | {"projection": projection}, RATES, options, "search")
        file = work / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(PROXY | {"projection": projection}))
        for tokens in TOKENS:
            found = lost("plan", file, "--suggest", "--tokens", tokens, "--from", work / f"{kind}-proxy", *where)
            config = meant(file, found["command"])
            rates = [float(f"{config.optimizer.lr * times:.4g}") for times in AROUND]
            losses = swept(work, f"{kind}-{tokens:.0f}", config.model_dump(mode="json"), rates, options)
            own, best = losses[rates[AROUND.index(1.0)]], min(losses, key=lambda rate: losses[rate])
            shape = f"{config.model.hidden_size}, {config.model.num_hidden_layers}"
            print(
                f"| {kind} | {shape} | {found['tokens']:,}, {config.train.batch_size} | {config.optimizer.lr:.3g} | "
                f"{own:.4f} | {best:.3g} | {losses[best]:.4f} | {own / losses[best] - 1:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; default 1")
    given = parser.parse_args()
    main(given.data, given.work, given.jobs)
