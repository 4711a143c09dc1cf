"""A trained dense model decomposed to LOST layers, healed with and without itself as a teacher, at equal tokens.

usage: python benchmarks/distillation.py DATA WORK > benchmarks/results/distillation.md      (15 minutes of one core)

DATA is a prepared set. WORK keeps every run: what is there already isn't trained again. Every step is a command of
`lost`, on one thread.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from commands import lost, sets
from common import heading

RANK, RATES, SEEDS = 32, ("1e-3", "3e-3"), (1, 2, 3)
CONFIG = """\
model: {hidden_size: 128, intermediate_size: 344, num_hidden_layers: 4, num_attention_heads: 4, use_qk_norm: true}
projection: {kind: dense, init_std: fan_in}
data: {seq_len: 128}
train: {batch_size: 8, eval_every: 0, eval_tokens: 65536, save_every: 0, log_every: 50}
optimizer: {name: muon, lr: 3.0e-3, weight_decay: 0.01}
schedule: {name: cosine, steps: 600, warmup_steps: 50}
"""
HEALING = """\
data: {seq_len: 128}
train: {batch_size: 8, eval_every: 0, eval_tokens: 65536, save_every: 0, log_every: 20}
optimizer: {name: muon, weight_decay: 0.01}
schedule: {name: cosine, steps: 60, warmup_steps: 6}
"""
WAYS: dict[str, dict[str, float]] = {
    "the text alone": {},
    "weight 0.5": {"weight": 0.5},
    "weight 1": {"weight": 1},
    "weight 0.5, T = 2": {"weight": 0.5, "temperature": 2},
}
HERE = ("--backend", "torch", "--device", "cpu")


class Study:
    """The runs, in a folder, each with its answer beside it."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        work.mkdir(parents=True, exist_ok=True)
        for name, text in (("dense", CONFIG), ("healing", HEALING)):
            (work / f"{name}.yaml").write_text(text)
        self.dense = self.once("dense", "train", work / "dense.yaml", "--data", data, *HERE, "--out", work / "dense")
        self.once("export", "convert", work / "dense", work / "export", "--to", "hf")
        self.layers = self.once("start", "convert", work / "export", work / "start", "--from", "hf", "--rank", RANK)

    def once(self, name: str, *words: object) -> dict[str, Any]:
        """Return a command's answer, which is kept."""
        file = self.work / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(lost(*words)))
        return dict(json.loads(file.read_text()))

    def healed(self, way: str, rate: str, seed: int, steps: int | None = None) -> float:
        """Return the validation loss after some steps; None: all of the schedule."""
        name = "-".join([*way.replace(",", "").split(), rate, str(seed), *([f"{steps} steps"] if steps else [])])
        settings = [f"optimizer.lr={rate}", f"train.seed={seed}"]
        if WAYS[way]:
            teacher = {"path": str(self.work / "dense"), **WAYS[way]}
            settings += [f"teacher.{key}={value}" for key, value in teacher.items()]
        if steps:
            settings.append(f"train.stop_after={steps}")
        done = self.once(
            name, "train", self.work / "healing.yaml", "--init-from", self.work / "start", "--data", self.data,
            *HERE, "--out", self.work / name, *sets(*settings),
        )  # fmt: skip
        return float(done["validation_loss"])


def main(data: Path, work: Path) -> None:
    """Print one table."""
    study = Study(data, work)
    rows = {
        (way, rate): [study.healed(way, rate, seed) for seed in SEEDS[: 3 if number < 2 else 2]]
        for number, way in enumerate(WAYS)
        for rate in RATES
    }
    title = "A decomposed model healed with and without its teacher"
    print(f"{heading(title, 'torch', words='DATA WORK')}, one thread, float32.\n")
    before, after = study.layers["parameters"]["before"], study.layers["parameters"]["after"]
    start = study.healed("the text alone", "1e-9", 1, 1)  # a step that changes nothing
    print(f"Dense: {before / 1e6:.2f}M parameters, validation loss {study.dense['validation_loss']:.4f} after")
    print(f"{study.dense['tokens']:,} tokens. Decomposed at rank {RANK}: {after / 1e6:.2f}M parameters, {start:.4f}.")
    print("Healed for 60 steps of 8 x 128 tokens, with the dense model as the teacher.\n")
    print("| learned from | rate | validation loss, by seed | mean |\n| --- | --- | --- | --- |")
    for (way, rate), losses in rows.items():
        print(f"| {way} | {rate} | {', '.join(f'{each:.4f}' for each in losses)} | {mean(losses):.4f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
