"""Models that were grown beside one that is trained from the start, at equal or fewer FLOPs, on the same text.

usage: python benchmarks/growing.py DATA [--work DIR] [--seeds N]        (four minutes of a core a seed)

DATA is a folder of `lost prepare`. A small model is trained for some steps at a constant rate, grown with `lost convert
--grow`, and trained on under a new schedule. Every part is kept in DIR: stopped at any time, the same command goes on.
The table goes to benchmarks/results/growing.md, also with some of the runs.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import lost
from common import heading

from lost.checkpoint import open_checkpoint
from lost.planning.budget import budget

STEPS, BASE_STEPS = 400, 130
CONFIG = """\
model: {hidden_size: 128, intermediate_size: 344, num_hidden_layers: 6, num_attention_heads: 2, use_qk_norm: true}
projection: {rank: 32, density: 0.03, align: 8, short_conv_width: 3}
data: {seq_len: 128}
train: {batch_size: 4, log_every: 50, eval_every: 0, eval_tokens: 65536, save_every: 100, keep_last: 1}
optimizer: {name: muon, lr: 3.0e-3, weight_decay: 0.01}
schedule: {name: cosine, steps: 400, warmup_steps: 30}
"""
HALF = ("model.num_hidden_layers=3",)
NARROW = ("model.hidden_size=64", "model.intermediate_size=172", "model.num_attention_heads=1")


@dataclass(frozen=True)
class Way:
    """A way to the whole model.

    Attributes:
        name: in the table.
        base: what is set of the small model.
        grow: arguments of `lost convert`.
        share: of the FLOPs of the model trained from the start, the small model's included.
    """

    name: str
    base: tuple[str, ...]
    grow: tuple[str, ...]
    share: float = 1.0


WAYS = (
    Way("3 blocks stacked", HALF, ("--grow", "layers=6")),
    Way("3 blocks stacked, .8 of the FLOPs", HALF, ("--grow", "layers=6"), 0.8),
    Way("3 blocks, identity between", HALF, ("--grow", "layers=6", "--layers-by", "identity")),
    Way("64 wide, widened", NARROW, ("--grow", "hidden=128", "--grow", "intermediate=344")),
)


class Lost:
    """The command line, each of whose answers is kept."""

    def __init__(self, work: Path, data: Path) -> None:
        self.work, self.data = work, data
        work.mkdir(parents=True, exist_ok=True)
        self.config = work / "config.yaml"
        self.config.write_text(CONFIG)

    def train(self, name: str, begin: list[str], sets: list[str]) -> float:
        """Train, or go on, and return the validation loss."""
        options = ["--data", str(self.data), "--out", str(self.work / name), "--threads", "1", "--backend", "torch"]
        return float(self._answer(name, ["train", *begin, *options, *sets])["validation_loss"])

    def grow(self, source: str, name: str, options: tuple[str, ...]) -> None:
        """Grow the model of a run."""
        self._answer(name, ["convert", str(self.work / source), str(self.work / name), *options, "--overwrite"])

    def flops(self, checkpoint: Path) -> float:
        """Return the FLOPs of a step of the model in a checkpoint."""
        config = open_checkpoint(checkpoint).config
        return float(budget(config).flops_per_token) * config.train.batch_size * config.data.seq_len

    def _answer(self, name: str, arguments: list[str]) -> dict[str, Any]:
        kept = self.work / f"{name}.json"
        if not kept.exists():
            print(" ".join(arguments), file=sys.stderr, flush=True)
            kept.write_text(json.dumps(lost(*arguments)))
        return dict(json.loads(kept.read_text()))


def measure(lost_: Lost, seed: int, losses: dict[str, list[float]], costs: dict[str, tuple[float, str]]) -> None:
    """Train all of a seed's models, and write the table after each."""
    begin, of_seed = [str(lost_.config)], [f"train.seed={seed}"]
    whole = f"whole-{seed}"
    losses.setdefault("from the start", []).append(lost_.train(whole, begin, of_seed))
    step = lost_.flops(lost_.work / whole / "checkpoints" / f"step-{STEPS:08d}")
    costs["from the start"] = (STEPS * step, f"{STEPS}")
    for way in WAYS:
        small = f"small-{WAYS.index(next(each for each in WAYS if each.base == way.base))}-{seed}"
        constant = ["schedule.name=constant", f"schedule.steps={BASE_STEPS}"]
        lost_.train(small, begin, [*of_seed, *constant, *way.base])
        spent = BASE_STEPS * lost_.flops(lost_.work / small / "checkpoints" / f"step-{BASE_STEPS:08d}")
        steps = round((way.share * STEPS * step - spent) / step)
        grown = f"grown-{WAYS.index(way)}-{seed}"
        lost_.grow(small, grown, way.grow)
        schedule = ["schedule.name=cosine", f"schedule.steps={steps}"]
        loss = lost_.train(f"{grown}-trained", ["--init-from", str(lost_.work / grown)], [*of_seed, *schedule])
        losses.setdefault(way.name, []).append(loss)
        costs[way.name] = (spent + steps * step, f"{BASE_STEPS} + {steps}")
        write_table(losses, costs)
        if way == WAYS[0]:  # what the small model's training brought to the grown one
            alone = f"from the start, {steps} steps"
            losses.setdefault(alone, []).append(train_alone(lost_, seed, steps))
            costs[alone] = (steps * step, f"{steps}")


def train_alone(lost_: Lost, seed: int, steps: int) -> float:
    """Train the whole model for so many steps."""
    return lost_.train(f"alone-{seed}", [str(lost_.config)], [f"train.seed={seed}", f"schedule.steps={steps}"])


def write_table(losses: dict[str, list[float]], costs: dict[str, tuple[float, str]]) -> None:
    """Write what is known so far."""
    seeds = len(losses["from the start"])
    lines = [
        f"{heading('Grown models', 'torch', words=f'DATA --seeds {seeds}')}, one thread.\n",
        "6 blocks, 128 wide, rank 32, looking back, Muon at 3e-3, steps of 512 tokens; small models at a constant "
        "rate, grown ones under a cosine of their own with a warm-up of 30 steps. FLOPs as `lost plan` counts them, "
        "the small model's included; validation loss over 65,536 tokens.\n",
        "| way | steps | TFLOPs | loss, mean | by seed | beside from the start, seed by seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in losses.items():
        flops, steps = costs[name]
        own = ", ".join(f"{each:.4f}" for each in found)
        beside = ", ".join(f"{each - whole:+.4f}" for each, whole in zip(found, losses["from the start"], strict=False))
        row = (name, steps, f"{flops / 1e12:.2f}", f"{statistics.mean(found):.4f}", own, beside)
        lines.append("| " + " | ".join(row) + " |")
    Path(__file__).with_name("results").joinpath("growing.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder made by `lost prepare`")
    parser.add_argument("--work", type=Path, default=Path("runs/growing"), help="where runs live; default runs/growing")
    parser.add_argument("--seeds", type=int, default=2, help="how many; default 2")
    options = parser.parse_args()
    losses, costs = dict[str, list[float]](), dict[str, tuple[float, str]]()
    for seed in range(options.seeds):
        measure(Lost(options.work, options.data), seed, losses, costs)


if __name__ == "__main__":
    main()
