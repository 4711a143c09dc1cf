"""One stable run that decays at three points, and one that goes on with other text: losses on old and new text.

usage: python benchmarks/branches.py DATA WORK > benchmarks/results/branches.md        (5 minutes)

DATA: `lost prepare proposals.train.jsonl.gz --valid proposals.valid.jsonl.gz --vocab-size 5632`. The other text is
Python's own standard library, with DATA's tokenizer.
"""

import sys
import sysconfig
from pathlib import Path

from commands import lost, sets
from common import heading

from lost.tracking.metrics import FILE, read_rows

RECIPE = """
model: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: 4, num_attention_heads: 4, vocab_size: 5632,
        use_qk_norm: true}
projection: {rank: 16, density: 0.03, align: 8, short_conv_width: 3}
data: {seq_len: 256}
train: {batch_size: 8, log_every: 50, eval_every: 200, eval_tokens: 65536, save_every: 200, keep_every: 200}
optimizer: {name: muon, lr: 1.2e-2, weight_decay: 0.01}
schedule: {name: constant, steps: 600, warmup_steps: 40}
"""
STEPS, DECAY = (200, 400, 600), 60


def main(data: Path, work: Path) -> None:
    """Train, branch, and print two tables."""
    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text(RECIPE)
    where = ("--backend", "torch", "--device", "cpu")
    stable, other, library = work / "stable", work / "other", sysconfig.get_path("stdlib")
    chosen = ("--include", "*.py", "--exclude", "test", "--exclude", "site-packages")
    lost("prepare", library, *chosen, "--tokenizer", data, "--out", other)
    both = sets(f"data.also_evaluate.other={other}")
    lost("train", work / "recipe.yaml", "--data", data, "--out", stable, *both, *where)
    print(f"{heading('Branches', 'torch', words='DATA WORK')}.")
    print("LOST of .82M parameters, Muon, 2,048 tokens a step, one seed; nats a token.\n")
    print(f"One run at a constant rate, and a branch of it from each of three steps that decays over {DECAY} (wsd).\n")
    print("| step | stable run | steps of the branch | its end |\n| --- | --- | --- | --- |")
    for step in STEPS:
        end = step + DECAY
        decay = sets(
            "schedule.name=wsd", f"schedule.decay_steps={DECAY}", f"schedule.steps={end}", "train.eval_every=0"
        )
        own = lost("train", "--branch-from", f"{stable}@{step}", "--out", work / f"decayed-{step}", *decay, *where)
        print(f"| {step} | {losses(stable, step)[0]:.4f} | {step} to {end} | {own['validation_loss']:.4f} |")
    again = sets("schedule.name=cosine", "schedule.steps=200", "schedule.warmup_steps=20", "train.eval_every=50")
    both = sets(f"data.also_evaluate.old={data}")
    command = ("train", "--branch-from", f"{stable}@{STEPS[-1]}", "--data", other, "--out", work / "continued")
    lost(*command, *again, *both, *where)
    print("\nThe stable run goes on with other text, its rate warmed up again over 20 steps and let down by cosine.\n")
    print("| step | new text | old text |\n| --- | --- | --- |")
    old, new = losses(stable, STEPS[-1])
    print(f"| 0 | {new:.4f} | {old:.4f} |")
    for step in (50, 100, 150, 200):
        new, old = losses(work / "continued", step)
        print(f"| {step} | {new:.4f} | {old:.4f} |")


def losses(run: Path, step: int) -> list[float]:
    """Return a run's validation losses at a step: on its own text, then on others."""
    row = next(row for row in read_rows(run / FILE) if row["step"] == step and "validation_loss" in row)
    return [row["validation_loss"], *(each["loss"] for each in row["also_evaluated"].values())]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
