"""Whole steps of a shipped model by `lost bench`, its kinds in turns, and the table of the answers; for other parts."""

import json
from typing import Any

from part import known, lost, table

GIB = 2**30


def asked(model: str, kinds: str, device: str, batch: int | None = None, *sets: str, rounds: int = 5) -> dict[str, Any]:
    """Return what `lost bench --json` answers about steps of a model, or with `reason` why it doesn't.

    Args:
        model: a shipped name.
        kinds: of projection, with commas.
        device: as the command takes it.
        batch: sequences a step; None: the command's default.
        sets: configuration, KEY=VALUE.
        rounds: timed ones.
    """
    words = ["--kinds", kinds, "--device", device, "--rounds", rounds, "--backend", "torch"]
    words += ["--batch", batch] if batch else []
    words += [word for each in sets for word in ("--set", each)]
    found = {"model": model, "kinds": kinds.split(","), "sets": sets}
    try:
        value = json.loads(lost("bench", model, "--model", "--json", *words).stdout)
    except RuntimeError as error:
        return {**found, "reason": str(error)}
    return {**found, **value["model"]}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table of `answers`."""
    rows: list[list[object]] = []
    for answer in found.get("answers", []):
        form = "eager" if "train.compile=false" in answer["sets"] else "compiled"
        for kind in answer["kinds"]:
            if "reason" in answer:
                rows.append([answer["model"], form, kind, *[None] * 7, answer["reason"][:160]])
                continue
            row = answer["results"][kind]
            times = {name: value * 1e3 for name, value in row["seconds"].items()}
            peak, planned = row["peak_memory_bytes"], row["planned_memory_bytes"]
            rows.append([
                answer["model"], form, kind,
                f"{answer['batch_size']}, {answer['micro_batch_size']}",
                f"{times['median']:.1f} ({times['p25']:.1f}-{times['p75']:.1f})",
                known("{:.2f}", row["ratio_to_dense"]),
                f"{row['tokens_per_second']:,.0f}",
                known("{:.1%}", row["mfu"]),
                known("{:.2f}", peak and peak / GIB),
                f"{planned / GIB:.2f}",
                "",
            ])  # fmt: skip
    head = ["model", "form", "kind", "sequences a step, at once", "ms (25-75 %)", "time / dense's", "tokens/s", "MFU",
            "peak, GiB", "planned", ""]  # fmt: skip
    return table(head, rows)
