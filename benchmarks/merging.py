"""What merging is worth on real text: two halves trained apart, and the tail of one run.

usage: python benchmarks/merging.py DATA FOLDER > benchmarks/results/merging.md         (twenty minutes of one core)

DATA is a prepared set. Its text is cut: a run begins on the first two fifths; two branches of it go on, each on one
half of the rest, and are merged; others go on with both halves, as many steps as one branch, or as both together. What
FOLDER holds already is not trained again. Every step is a command of `lost`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from commands import lost, sets
from common import heading

from lost.data.dataset import TRAIN, VALID, Dataset, Split
from lost.data.writer import SplitWriter, write_description
from lost.tokenizer import Tokenizer

MEASURED, SHOWN = 65_536, 40_000  # tokens that measure, and that Fisher information is taken on
SEEN, MORE, EVERY = 500, 200, 50  # steps of the beginning, of a branch, between two checkpoints
TAILS = (2, 4, 6)  # checkpoints that are averaged
CONFIG = f"""\
model: {{hidden_size: 128, intermediate_size: 344, num_hidden_layers: 4, num_attention_heads: 4, use_qk_norm: true}}
projection: {{rank: 32, density: 0.03, align: 8}}
data: {{seq_len: 128}}
train: {{batch_size: 8, eval_every: 0, save_every: {EVERY}, keep_every: {EVERY}, log_every: {EVERY}}}
optimizer: {{name: muon, lr: 3.0e-3, weight_decay: 0.01}}
schedule: {{name: constant, steps: {SEEN}, warmup_steps: 50}}
"""
LOST = ["projection.short_conv_width=3"]
LINEAR = ["projection.activation=none"]  # whose layers merge as matrices too


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
        size = len(tokenizer.decode(tokens.tolist()).encode())
        writer.append(tokens, int((tokens == tokenizer.end_of_text).sum()), size)
        splits[name] = writer.close()
    write_description(folder, tokenizer, splits, None)


def train(place: Path, run: str, *words: object) -> Path:
    """Train a run, or resume it; return its folder."""
    out = place / run.replace(", ", "-").replace(" ", "-")
    found = lost("train", *([out] if (out / "latest").exists() else words), "--out", out, "--backend", "torch")
    print(f"{run}: {found['step']} steps", file=sys.stderr)
    return out


class Figures:
    """Losses on the validation text, kept in the folder."""

    def __init__(self, place: Path) -> None:
        self._place, self._file = place, place / "figures.json"
        self._known: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def row(self, what: str, steps: int | str, model: Path, gap: str = "") -> None:
        """Print a row of the table."""
        key = model.name
        if key not in self._known:
            found = lost("eval", model, "--data", self._place / "both", "--backend", "torch")
            self._known[key] = found["loss"]
            self._file.write_text(json.dumps(self._known))
        print(f"| {what} | {steps} | {self._known[key]:.4f} | {gap} |", flush=True)


class Family:
    """A beginning, and what goes on from it.

    Args:
        place: of all runs.
        kind: of layers.
        settings: overrides that mean it.
    """

    def __init__(self, place: Path, kind: str, settings: list[str]) -> None:
        self._place, self._kind, self._figures = place, kind, Figures(place)
        words = ("--data", place / "start", *sets(*settings))
        self.start = train(place, f"{kind} start", place / "config.yaml", *words)
        self._figures.row(f"{kind}: the beginning", SEEN, self.start)

    def tails(self) -> None:
        """Print what averages of the beginning's last checkpoints reach, and a falling rate instead."""
        for count in TAILS:
            tail = [f"{self.start}@{SEEN - EVERY * number}" for number in range(count)]
            self.merged(f"average of its last {count} checkpoints", SEEN, f"tail-{count}", tail)
        rates = ("name=wsd", f"steps={SEEN}", "decay_steps=100", "warmup_steps=50")
        decayed = self.branch("decayed", f"{self.start}@{SEEN - 100}", rates)
        self._figures.row("its last 100 steps at a falling rate", SEEN, decayed)

    def halves(self, ways: dict[str, tuple[object, ...]]) -> None:
        """Print what runs on one half of the text reach, and what they do when they are merged."""
        runs = [self.on(half, half, MORE) for half in ("left", "right")]
        for half, run in zip(("left", "right"), runs, strict=True):
            self._figures.row(f"then on the {half} half", MORE, run)
        for what, options in ways.items():
            self.merged(what, f"2 x {MORE}", what, list(map(str, runs)), *options)

    def both(self) -> None:
        """Print what one run on both halves reaches."""
        self._figures.row("then on both halves", MORE, self.on("both", "both", MORE))
        self._figures.row("then on both halves, twice as long", 2 * MORE, self.on("both twice", "both", 2 * MORE))

    def on(self, name: str, data: str, steps: int) -> Path:
        """Train on from the beginning with other data."""
        rates = ("name=cosine", f"steps={steps}", "warmup_steps=20")
        return self.branch(name, str(self.start), rates, "--data", self._place / data)

    def branch(self, name: str, source: str, rates: tuple[str, ...], *words: object) -> Path:
        """Train on from a checkpoint under another schedule."""
        options = sets(*(f"schedule.{each}" for each in rates))
        return train(self._place, f"{self._kind} {name}", "--branch-from", source, *words, *options)

    def merged(self, what: str, steps: int | str, name: str, parts: list[str], *words: object) -> None:
        """Merge models, and print how the result does and how far its layers are off on average."""
        made = self._place / f"{self.start.name}-{name}".replace(" ", "-")
        answer = lost("merge", *parts, made, "--overwrite", *words)
        self._figures.row(what, steps, made, f"{np.mean([each['gap'] for each in answer['layers']]):.1%}")


def main(data: Path, place: Path) -> None:
    """Print one table."""
    place.mkdir(parents=True, exist_ok=True)
    cut(Dataset(data), place)
    (place / "config.yaml").write_text(CONFIG)
    print(f"{heading('Merged', 'torch', words='DATA FOLDER')}, one thread.")
    print(f"128 wide, 4 blocks, Muon, 1,024 tokens a step; loss on {MEASURED:,} tokens of")
    print("validation text. Off: by how much outputs of merged layers differ from the average of their parts'.\n")
    print("| weights | steps | loss | off |\n| --- | --- | --- | --- |")
    looking_back = Family(place, "lost, looking back", LOST)
    looking_back.tails()
    looking_back.halves(
        {"merged": (), "merged by Fisher information": ("--by", "fisher", "--text", place / "shown.jsonl")}
    )
    looking_back.both()
    linear = Family(place, "lost without activation", LINEAR)
    linear.halves({"merged": (), "merged as matrices of rank 32": ("--as-dense", 32)})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
