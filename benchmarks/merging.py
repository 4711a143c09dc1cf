"""What merging is worth on real text: two halves trained apart, and the tail of one run.

usage: python benchmarks/merging.py DATA FOLDER > benchmarks/results/merging.md         (twenty minutes of one core)

DATA is a prepared set. Its text is cut: a run begins on the first two fifths; two branches of it go on, each on one half of
the rest, and are merged; others go on with both halves, as many steps as one branch, or as both together. What FOLDER
holds already is not trained again. Every step is a command of `lost`.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lost import __version__
from lost.data.dataset import TRAIN, VALID, Dataset, Split
from lost.data.writer import SplitWriter, write_description
from lost.tokenizer import Tokenizer
from lost.utils.machine import processor_name

SEEN, MEASURED, SHOWN = 500, 65_536, 40_000  # steps of the beginning; tokens that measure, and that Fisher is taken on
MORE = 200  # steps of a branch
EVERY = 50  # steps between two checkpoints of the beginning
CONFIG = """\
model: {hidden_size: 128, intermediate_size: 344, num_hidden_layers: 4, num_attention_heads: 4, use_qk_norm: true}
projection: {rank: 32, density: 0.03, align: 8}
data: {seq_len: 128}
train: {batch_size: 8, eval_every: 0, save_every: 50, keep_every: 50, log_every: 50}
optimizer: {name: muon, lr: 3.0e-3, weight_decay: 0.01}
schedule: {name: constant, steps: 500, warmup_steps: 50}
"""
KINDS = {
    "lost, looking back": ["projection.short_conv_width=3"],
    "dense": ["projection.kind=dense", "projection.init_std=fan_in"],
}


def lost(*words: object) -> dict[str, Any]:
    """Run a command on one thread; return its answer."""
    command = [sys.executable, "-m", "lost", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr}")
    return dict(json.loads(done.stdout))


def cut(whole: Dataset, place: Path) -> None:
    """Write the sets `start`, `left`, `right` and `both`, and the texts that Fisher is taken on."""
    train, valid, tokenizer = whole.split(TRAIN), whole.split(VALID), whole.tokenizer
    ids = train.read(0, train.tokens)
    ends = np.flatnonzero(ids == tokenizer.end_of_text)
    first, half = (int(ends[np.searchsorted(ends, share * len(ids))]) + 1 for share in (0.4, 0.7))
    pieces = {"start": ids[1:first], "left": ids[first:half], "right": ids[half:], "both": ids[first:]}
    for name, piece in pieces.items():
        if not (place / name).exists():
            write_set(place / name, piece, valid, tokenizer)
    # Of both halves as much.
    texts = [tokenizer.decode(pieces[name][: SHOWN // 2].tolist()) for name in ("left", "right")]
    (place / "shown.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_set(folder: Path, ids: np.ndarray, valid: Split, tokenizer: Tokenizer) -> None:
    """Write a prepared set of these tokens, and of the beginning of the validation text."""
    folder.mkdir(parents=True)
    splits = {}
    for name, tokens in ((TRAIN, ids), (VALID, valid.read(1, MEASURED))):
        writer = SplitWriter(folder, name, tokenizer)
        writer.append(tokens, int((tokens == tokenizer.end_of_text).sum()), len(tokenizer.decode(tokens.tolist())))
        splits[name] = writer.close()
    write_description(folder, tokenizer, splits, None)


def train(place: Path, run: str, *words: object) -> Path:
    """Train a run, or resume it; return its folder."""
    out = place / run.replace(", ", "-").replace(" ", "-")
    found = lost("train", *([out] if (out / "latest").exists() else words), "--out", out, "--backend", "torch")
    print(f"{run}: {found['step']} steps", file=sys.stderr)
    return out


def branches(place: Path, kind: str, words: list[str]) -> tuple[Path, dict[str, Path]]:
    """Train a beginning and what goes on from it."""
    sets = [each for word in words for each in ("--set", word)]
    start = train(place, f"{kind} start", place / "config.yaml", "--data", place / "start", *sets)

    def on(name: str, data: str, steps: int) -> Path:
        rates = (f"schedule.{each}" for each in ("name=cosine", f"steps={steps}", "warmup_steps=20"))
        options = [each for rate in rates for each in ("--set", rate)]
        return train(place, f"{kind} {name}", "--branch-from", start, "--data", place / data, *options)

    gone = {"left": on("left", "left", MORE), "right": on("right", "right", MORE)}
    return start, gone | {"both": on("both", "both", MORE), "both twice": on("both twice", "both", 2 * MORE)}
