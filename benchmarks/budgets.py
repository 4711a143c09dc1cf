"""What a budget costs a small dense model, by how its ranks were chosen: bits per byte of text held out from all of it.

usage: python benchmarks/budgets.py DATA TRAIN VALID WORK > benchmarks/results/budgets.md

DATA is a prepared set of TRAIN and VALID (JSONL, gzipped; vocabulary 5,632). WORK keeps the model and each result: what
is there isn't done again. Every step is a command of `lost`; together minutes of one core.
"""

import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

from commands import lost
from common import heading

from lost.interop.from_hf import open_folder
from lost.interop.from_hf.conversion import decomposed_config, equal_ranks
from lost.planning.budget import budget

RANKS, DENSITY = (56, 40, 24), 0.03  # for all projections alike; budgets are what those models have
SHOWN, HELD_OUT = 150_000, 100_000  # bytes of JSONL: to calibrate on, to measure on
DENSE = """\
model: {hidden_size: 128, intermediate_size: 344, num_hidden_layers: 2, num_attention_heads: 4,
        max_position_embeddings: 256}
projection: {kind: dense, init_std: fan_in}
data: {seq_len: 128}
train: {batch_size: 8, log_every: 100, eval_every: 0, save_every: 200, keep_last: 1}
optimizer: {name: muon, lr: 3.0e-3, weight_decay: 0.01}
schedule: {name: cosine, steps: 1000, warmup_steps: 50}
"""
HEALING = """\
data: {seq_len: 128}
train: {batch_size: 8, log_every: 100, eval_every: 0, eval_tokens: 1024, save_every: 100, keep_last: 1}
optimizer: {name: muon, lr: 3.0e-4, weight_decay: 0.01}
schedule: {name: cosine, steps: 200, warmup_steps: 10}
"""
WAYS: dict[str, list[str] | None] = {  # without a calibration text, or with it and further options
    "one rank": None,
    "one rank, calibrated": [],
    "greedy": None,
    "greedy, calibrated": [],
    "greedy, fisher": ["--weight-by", "fisher"],
    "searched, fisher": ["--weight-by", "fisher", "--search", "25"],
}
HEALED_RANK, HEALED = 40, ("one rank, calibrated", "searched, fisher")


class Results:
    """Answers by name, kept in a folder."""

    def __init__(self, work: Path) -> None:
        self._file = work / "results.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._found = dict(json.loads(line) for line in lines)

    def of(self, name: str, *words: object) -> dict[str, Any]:
        """Return the answer of a command, which is run if there is none yet."""
        if name not in self._found:
            print(name, file=sys.stderr, flush=True)
            self._found[name] = lost(*words)
            with self._file.open("a") as file:
                file.write(json.dumps([name, self._found[name]]) + "\n")
        return self._found[name]


def share_of(folder: Path, rank: int) -> float:
    """Return the share of parameters that one rank for all projections keeps, rounded up."""
    config = open_folder(folder).config
    small = decomposed_config(config, equal_ranks(config, rank), DENSITY)
    return math.ceil(1e4 * budget(small).parameters / budget(config).parameters) / 1e4


def cut(source: Path, size: int, to: Path) -> int:
    """Write the first lines of a gzipped JSONL, up to so many bytes; return those of their texts."""
    kept: list[str] = []
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        for line in lines:
            if (size := size - len(line)) < 0:
                break
            kept.append(line)
    to.write_text("".join(kept), encoding="utf-8")
    return sum(len(json.loads(line)["text"].encode()) for line in kept)


def main(data: Path, train: Path, valid: Path, work: Path) -> None:
    """Print one table."""
    work.mkdir(parents=True, exist_ok=True)
    shown, held_out, dense = work / "shown.jsonl", work / "held-out.jsonl", work / "dense"
    cut(train, SHOWN, shown)
    measured = cut(valid, HELD_OUT, held_out)
    (work / "dense.yaml").write_text(DENSE)
    (work / "healing.yaml").write_text(HEALING)
    results = Results(work)
    results.of("trained", "train", work / "dense.yaml", "--data", data, "--out", work / "run")
    results.of("dense", "convert", work / "run", dense, "--to", "hf", "--overwrite")

    def bits(name: str, model: Path) -> str:
        return f"{results.of(f'{name}, measured', 'eval', model, '--text', held_out)['bits_per_byte']:.3f}"

    def compressed(rank: int, share: float, way: str) -> tuple[Path, dict[str, Any]]:
        out, options = work / f"{rank}-{way}".replace(", ", "-").replace(" ", "-"), WAYS[way]
        chosen = ["--rank", rank] if way.startswith("one") else ["--budget", share]
        text = [] if options is None else ["--calibrate", shown, *options]
        command = ["convert", dense, out, "--from", "hf", *chosen, *text, "--overwrite"]
        return out, results.of(f"{rank}, {way}", *command)

    print(heading("Compressed to a budget", "torch", words=f"DATA {train.name} {valid.name} WORK"), end="; ")
    print(f"float32, density {DENSITY}; {measured:,} bytes held out\n")
    print("| budget | ranks | kept | stay dense | bits per byte | healed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for rank in RANKS:
        share = share_of(dense, rank)
        for way in WAYS:
            out, found = compressed(rank, share, way)
            kept = found["parameters"]["after"] / found["parameters"]["before"]
            stay = found["budget"]["dense"] if found["budget"] else []
            cells = [f"{share:.4f}", way, f"{kept:.4f}", len(stay) or "", bits(f"{rank}, {way}", out), ""]
            if rank == HEALED_RANK and way in HEALED:
                run = work / f"healed-{out.name}"
                healing = ["train", work / "healing.yaml", "--init-from", out, "--data", data, "--out", run]
                results.of(f"{rank}, {way}, healing", *healing)
                cells[-1] = bits(f"{rank}, {way}, healed", run)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(f"\nDense: {bits('dense', work / 'run')} bits per byte.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
