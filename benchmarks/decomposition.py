"""What decomposing a small dense model to LOST layers costs it, by rank, with and without a calibration text.

usage: python benchmarks/decomposition.py TEXT > benchmarks/results/decomposition.md        (minutes on two cores)

TEXT is one file of at least 200,000 characters. Its last 30,000 measure, its first 100,000 calibrate, and the model is
trained on all but the last 30,000. Every step is a command of `lost`.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean

from commands import lost
from common import heading

MEASURED, SHOWN = 30_000, 100_000  # characters
RANKS = (192, 96, 64, 32)
CONFIG = """\
model: {hidden_size: 192, intermediate_size: 512, num_hidden_layers: 4, num_attention_heads: 6, num_key_value_heads: 2,
        vocab_size: 1000, tie_word_embeddings: true}
projection: {kind: dense}
data: {seq_len: 256}
train: {batch_size: 8, eval_every: 0}
optimizer: {lr: 2.0e-3}
schedule: {steps: 220, warmup_steps: 20}
"""


def main(text: Path) -> None:
    """Print one table."""
    whole = text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, part in (
            ("train", whole[:-MEASURED]),
            ("measured", whole[-MEASURED:]),
            ("shown", whole[:SHOWN]),
            ("config", CONFIG),
        ):
            (place / f"{name}.txt").write_text(part, encoding="utf-8")
        (place / "config.txt").rename(place / "config.yaml")
        lost("prepare", place / "train.txt", "--vocab-size", 1000, "--out", place / "data")
        lost("train", place / "config.yaml", "--data", place / "data", "--out", place / "run")
        lost("convert", place / "run", place / "dense", "--to", "hf")
        print(heading("Decomposed to LOST layers", "torch", words=text.name), end="; ")
        print(f"float32, density 0.03; {len(whole):,} characters\n")
        print("| rank | parameters | perplexity | error | perplexity, calibrated | error | error on inputs |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for rank in RANKS:
            plain, shown = (
                lost("convert", place / "dense", place / f"{rank}-{len(more)}", "--from", "hf", "--rank", rank,
                     "--text", place / "measured.txt", *more)
                for more in ((), ("--calibrate", place / "shown.txt"))
            )  # fmt: skip
            cells = [
                str(rank),
                f"{plain['parameters']['after'] / 1e6:.2f}M",
                f"{plain['perplexity']['after']:.2f}",
                f"{mean(each['error'] for each in plain['layers']):.2f}",
                f"{shown['perplexity']['after']:.2f}",
                f"{mean(each['error'] for each in shown['layers']):.2f}",
                f"{mean(each['input_error'] for each in shown['layers']):.3f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
        before = plain["perplexity"]["before"]
        print(f"\nBefore: {plain['parameters']['before'] / 1e6:.2f}M parameters, perplexity {before:.2f}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
