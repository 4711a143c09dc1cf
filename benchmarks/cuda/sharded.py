"""The path of many cards (FSDP2, NCCL), on one card: tokens a second under torchrun beside one process alone."""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from part import Tell, begin, lost, metrics, prepared, table

TITLE = "Under torchrun, on one card"
STEPS = 12


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Train a few steps each way, in turns."""
    model = "quickstart" if options.small else "llama_60m_paper"
    found: dict[str, Any] = {"model": model, "ways": {"alone": [], "under torchrun": []}}
    sets = ["model.vocab_size=1024", "train.batch_size=8", "train.micro_batch_size=8"] if options.small else [
        "train.batch_size=256", "train.micro_batch_size=64"]  # fmt: skip
    sets += [f"train.stop_after={STEPS}", "train.log_every=1", "train.eval_every=0", "train.save_every=0"]
    sets += ["train.eval_tokens=1000"]
    words = [word for each in sets for word in ("--set", each)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = prepared(work / "data", small=True)
        for number in range(2):
            for way, rates in found["ways"].items():
                run = work / f"{way}-{number}"
                workers = 1 if way == "under torchrun" else 0
                arguments = ["train", model, "--data", data, "--out", run, "--device", options.device, *words]
                lost(*arguments, "--backend", "torch", workers=workers)
                rates.append(statistics.median(metrics(run, "tokens_per_second")[STEPS // 2 :]))
                found.setdefault("losses", {}).setdefault(way, metrics(run, "loss")[-1])
                tell(found)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""
    rows = [
        [way, ", ".join(f"{rate:,.0f}" for rate in rates), f"{found['losses'][way]:.4f}" if rates else None]
        for way, rates in found.get("ways", {}).items()
    ]
    return table([str(found.get("model")), "tokens/s, each time", f"loss of step {STEPS}"], rows)


if __name__ == "__main__":
    begin(measured)
