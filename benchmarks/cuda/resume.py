"""A run stopped and resumed, or only repeated, beside one that wasn't: equal to the bit, or how far off."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from part import Tell, begin, lost, metrics, prepared, table

from lost.checkpoint import find_checkpoint

TITLE = "Repeated and resumed"
STEPS = 20


def measured(options: argparse.Namespace, tell: Tell) -> None:
    """Compare all weights and moments at the end, with `train.deterministic` and without."""
    found: dict[str, Any] = {"steps": STEPS, "forms": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = prepared(work / "data", small=True)
        for compiled, exact in ((False, True), (True, True), (False, False), (True, False)):
            if options.small and compiled:
                continue
            sets = [f"schedule.steps={STEPS}", "schedule.warmup_steps=4", "train.eval_every=0", "data.seq_len=256"]
            sets += ["train.batch_size=16", "train.micro_batch_size=8", "optimizer.name=adamw", "train.log_every=1"]
            sets += [
                "train.dtype=bfloat16",
                f"train.compile={compiled}".lower(),
                f"train.deterministic={exact}".lower(),
            ]
            sets += ["model.vocab_size=1024"]

            def train(run: Path, *more: str, sets: list[str] = sets, data: Path = data) -> Path:
                words = [word for each in (*sets, *more) for word in ("--set", each)]
                lost("train", "quickstart", "--data", data, "--out", run, "--device", options.device, *words)
                return run

            name = f"{compiled}-{exact}"
            straight, again = (train(work / f"{name}-{which}") for which in ("straight", "again"))
            train(work / f"{name}-resumed", f"train.stop_after={STEPS // 2}")
            resumed = train(work / f"{name}-resumed")
            found["forms"].append({
                "compiled": compiled, "deterministic": exact,
                "repeated": difference(straight, again), "resumed": difference(straight, resumed),
                "seconds": float(np.median(np.diff(metrics(straight, "seconds"))[STEPS // 2 :])),
            })  # fmt: skip
            tell(found)


def difference(one: Path, other: Path) -> dict[str, float]:
    """Return how many arrays of the last checkpoints differ, and by how much at most, relative to an array's norm."""
    held = []
    for run in (one, other):
        checkpoint = find_checkpoint(run)[0]
        held.append({name: np.array(array) for name, array in (*checkpoint.parameters(), *checkpoint.moments())})
    differ, most = 0, 0.0
    for name, array in held[0].items():
        if array.tobytes() != held[1][name].tobytes():
            differ += 1
            left, right = array.astype(np.float64), held[1][name].astype(np.float64)
            most = max(most, float(np.linalg.norm(left - right) / np.linalg.norm(left)))
    return {"arrays": len(held[0]), "differ": differ, "most": most}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""

    def said(value: dict[str, Any]) -> str:
        same = f"all {value['arrays']} arrays to the bit"
        return f"{value['differ']} of {value['arrays']} arrays, by {value['most']:.1e}" if value["differ"] else same

    rows = [
        ["compiled" if each["compiled"] else "eager", "yes" if each["deterministic"] else "no",
         said(each["repeated"]), said(each["resumed"]), f"{each['seconds'] * 1e3:.1f}"]
        for each in found.get("forms", [])
    ]  # fmt: skip
    head = [f"quickstart, bfloat16, {found.get('steps')} steps", "deterministic", "repeated", "resumed", "ms a step"]
    return table(head, rows)


if __name__ == "__main__":
    begin(measured)
