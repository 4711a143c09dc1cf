"""The demo's recipe on the demo's text, LOST beside dense: the loss that a CPU reaches, in seconds."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from part import Tell, begin, lost, metrics, prepared, table

TITLE = "A training"
DENSE = ("projection.kind=dense", "projection.init_std=fan_in")


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Train quickstart, evaluate it whole."""
    found: dict[str, Any] = {"runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = prepared(work / "data", options.small)
        small = ("schedule.steps=4", "schedule.warmup_steps=1", "train.batch_size=2") if options.small else ()
        for kind, sets in (("lost", ()), ("dense", DENSE)):
            run, words = work / kind, [word for each in (*sets, *small) for word in ("--set", each)]
            began = time.perf_counter()
            lost("train", "quickstart", "--data", data, "--out", run, "--device", options.device, *words)
            seconds = time.perf_counter() - began
            value = json.loads(lost("eval", run, "--device", options.device, "--json").stdout)
            found["runs"][kind] = {"seconds": seconds, "losses": metrics(run, "loss"), "steps": metrics(run, "step"),
                                   "evaluation": value}  # fmt: skip
            tell(found)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""
    rows = [
        [kind, f"{run['seconds']:.0f}", *(f"{run['evaluation'][key]:.4f}" for key in ("loss", "bits_per_byte"))]
        for kind, run in found.get("runs", {}).items()
    ]
    return table(["quickstart", "seconds, start to end", "validation loss", "bits a byte"], rows)


if __name__ == "__main__":
    begin(measured)
