"""Bits a byte of a model whose vocabulary is changed: right after, and after 100 steps; and of one that is pruned.

usage: python benchmarks/vocabularies.py DATA TRAIN VALID WORK > benchmarks/results/vocabularies.md

DATA is a prepared set of the text TRAIN, VALID other text. What is trained and converted stays in WORK: the same
command goes on where it was ended. Minutes on a quiet core.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import tokenizers
from commands import call
from common import heading

from lost.checkpoint import find_checkpoint
from lost.planning.budget import budget
from lost.prepare.sources import Sources
from lost.reshape.vocabulary.checkpoint import write_with
from lost.reshape.vocabulary.rows import Rows, corresponding
from lost.tokenizer import load_tokenizer

CONFIG = Path(__file__).parent / "studies" / "vocabularies.yaml"
DOCUMENTS, BYTES, STEPS = 200, 100_000, 100  # to train on again; of VALID; of training
RATE = 1e-3  # of those steps: a third of the model's own


class RandomRows(Rows):
    """New rows as an untrained model has them."""

    def of(self, table: np.ndarray) -> np.ndarray:
        """Return the new table."""
        drawn = np.random.default_rng(0).normal(0, 0.02, (len(self.old), table.shape[1])).astype(table.dtype)
        copied = [len(each) == 1 for each in self.old]
        drawn[copied] = super().of(table)[copied]
        return drawn


STARTS: dict[str, Callable[[Rows], Rows]] = {
    "mean": lambda rows: rows,
    "first": lambda rows: replace(rows, old=[each[:1] for each in rows.old]),
    "last": lambda rows: replace(rows, old=[each[-1:] for each in rows.old]),
    "random": lambda rows: RandomRows(rows.old, rows.tokens),
}
"""What rows of new tokens start as: made of the rows of all old pieces of their text, of one, or of none."""
TRAINED = ("", "mean", "random")  # the starts that are trained on; the first: the model as it was


def main(data: Path, train: Path, valid: Path, work: Path) -> None:
    """Train, convert, and print the tables."""
    work.mkdir(exist_ok=True)
    held_out = work / "valid.txt"
    held_out.write_bytes("\n\n".join(Sources([valid]).documents()).encode()[:BYTES].decode(errors="ignore").encode())
    base = work / "base"
    call("train", CONFIG, "--data", data, "--out", base)
    packages = ("torch", "sentencepiece", "tokenizers")
    print(f"{heading('A model with another vocabulary', *packages, words='DATA TRAIN VALID WORK')}.\n")
    print(
        f"The model: `benchmarks/studies/vocabularies.yaml`, 500 steps of 1,024 tokens. Bits a byte of {BYTES:,} bytes "
        f"that it never saw; {STEPS} steps more, at rate {RATE:g}, are of {DOCUMENTS} documents that it may have "
        "seen.\n"
    )
    print("| tokenizer | tokens | known | bytes a token | new rows | bits a byte | after the steps |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    changed(base, train, held_out, work)
    print("\n| tokens of | tokens | parameters | bits a byte of the first half | of the second |")
    print("| --- | --- | --- | --- | --- |")
    pruned(base, work)


def changed(base: Path, train: Path, held_out: Path, work: Path) -> None:
    """Print a row a tokenizer and start of its new rows, the model's own tokenizer first."""
    source = find_checkpoint(base)[0]
    own = source.tokenizer()
    for name, tokenizer in new_tokenizers(source.path, train, work).items():
        data = work / f"{name}-data"
        if not data.exists():
            call("prepare", train, "--max-documents", DOCUMENTS, "--tokenizer", tokenizer, "--out", data)
        theirs = load_tokenizer(tokenizer)
        rows = corresponding(own, theirs, own.vocab_size)
        length = BYTES / len(theirs.encode(held_out.read_text()))
        for start, change in STARTS.items() if name != "own" else [("", None)]:
            out = work / f"{name}-{start}"
            if change and not out.exists():
                write_with(source, out, theirs, change(rows))
            found = out if change else source.path
            known, figures = f"{rows.copied:,}" if change else "", [bits(found, held_out)]
            if start in TRAINED:
                figures.append(bits(trained(found, data, work / f"{out.name}-run"), held_out))
            shown = " | ".join([f"{each:.3f}" for each in figures] + [""] * (2 - len(figures)))
            print(f"| {name} | {theirs.vocab_size:,} | {known} | {length:.2f} | {start} | {shown} |", flush=True)


def new_tokenizers(own: Path, train: Path, work: Path) -> dict[str, Path]:
    """Return the model's tokenizer, one of the same kind with more tokens, and one of bytes that merge, by name."""
    larger, merging = work / "larger", work / "bytes"
    if not larger.exists():
        call("prepare", train, "--max-documents", DOCUMENTS, "--vocab-size", 8192, "--out", larger)
    if not merging.exists():
        merging.mkdir()
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=4096,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(islice(Sources([train]).documents(), DOCUMENTS), trainer)
        made.save(str(merging / "tokenizer.json"))
    return {"own": own, "larger": larger, "bytes": merging}


def pruned(base: Path, work: Path) -> None:
    """Print the model, and it pruned to a part of the text."""
    text = (work / "valid.txt").read_text()
    parts = {"half": text[: len(text) // 2], "rest": text[len(text) // 2 :]}
    for name, part in parts.items():
        (work / f"{name}.txt").write_text(part)
    for kept in ("all", "half"):
        out = work / f"pruned-{kept}" if kept == "half" else base
        if not out.exists():
            call("convert", base, out, "--prune-vocab", work / f"{kept}.txt")
        held = find_checkpoint(out)[0]
        count = f"{held.tokenizer().vocab_size:,} | {budget(held.config).parameters:,}"
        figures = [f"{bits(out, work / f'{name}.txt'):.4f}" for name in parts]
        print(f"| {kept} | {count} | {' | '.join(figures)} |")


def trained(start: Path, data: Path, run: Path) -> Path:
    """Return a run of some steps that begins with a checkpoint's weights."""
    sets = [f"schedule.steps={STEPS}", "schedule.warmup_steps=10", f"optimizer.lr={RATE:g}", "train.stop_after=null"]
    call("train", "--init-from", start, "--data", data, "--out", run, *sets)
    return run


def bits(model: Path, text: Path) -> float:
    """Return bits a byte of a text."""
    return float(json.loads(call("eval", model, "--text", text, "--json"))["bits_per_byte"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
