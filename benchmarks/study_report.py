"""The table and the plots of a study: what `study.py` found so far."""

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from lost.sweep.report import markdown

Row = dict[str, Any]


def write_report(spec: dict[str, Any], rows: list[Row], path: Path) -> None:
    """Write the tables to `path` (.md), and beside it NAME-rates.png and NAME-ablations.png."""
    from lost import __version__

    searched = [row for row in rows if row["group"] is None]
    spec = {"methods": {}, "scales": {}, **spec}
    bases = {method: base for method in spec["methods"] if (base := _best(spec, searched, method))}
    tokens = next((row["tokens"] for row in rows if row["tokens"]), None)
    lines = [
        f"# {path.stem}",
        "",
        f"`python benchmarks/study.py benchmarks/studies/{path.stem}.yaml`, lost {__version__}; {len(rows)} runs of "
        f"{(tokens or 0) / 1e6:.2f}M tokens. Validation loss in nats a token over the whole held-out text, never "
        "trained on. Step times were taken with other work on the machine: `lost bench` is the place for those.",
        "",
        *_final(spec, rows, path),
        *_screen([row for row in rows if row["group"] == "screen"]),
        *(_methods(bases, searched) if bases else []),
        *(_search(spec, searched, f"{path.stem}-rates.png") if bases else []),
        *_ablations(spec, rows, bases, searched, f"{path.stem}-ablations.png"),
    ]
    part = path.with_suffix(".partial")
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, path)
    if bases:
        _plot_rates(spec, searched, path.with_name(f"{path.stem}-rates.png"))
    if any(row["group"] in spec.get("ablations", {}) for row in rows):
        _plot_ablations(spec, rows, bases, searched, path.with_name(f"{path.stem}-ablations.png"))


def _final(spec: dict[str, Any], rows: list[Row], path: Path) -> list[str]:
    """Return the table of methods over seeds, at equal tokens and in equal time, the best first; plot their curves."""
    found = {
        method: [row for row in rows if (row["method"], row["group"]) == (method, "final")]
        for method in spec.get("final", {})
    }
    found = {method: own for method, own in found.items() if own}
    if not found:
        return []
    steps = path.with_name(f"{path.stem}-steps.json")
    measured = json.loads(steps.read_text()) if steps.exists() else {"methods": {}}
    first = next(iter(spec["final"]))
    cells = []
    for method, own in sorted(found.items(), key=lambda pair: statistics.mean(row["loss"] for row in pair[1])):
        timed = [row for row in rows if (row["method"], row["group"]) == (method, "equal time")]
        cost = measured["methods"].get(method)
        cells.append(
            [
                method,
                f"{own[0]['lr']:g}",
                f"{own[0]['parameters'] / 1e6:.2f}M",
                f"{cost['memory_bytes'] / 2**20:.0f}" if cost else "",
                f"{cost['relative']:.2f}" if cost else "",
                _mean(own),
                f"{statistics.mean(row['bits_per_byte'] for row in own):.4f}",
                "as left" if method == first else _mean(timed),
            ]
        )
    head = ["method", "rate", "parameters", "memory (MiB)", "a step's time", "loss at equal tokens", "bits a byte"]
    lines = ["## Final", "", *markdown([*head, "loss in equal time"], cells), ""]
    lines += ["Mean, deviation and number of seeds. Memory: weights, gradients, the optimizer's state, activations."]
    if "machine" in measured:
        machine, versions = measured["machine"], measured["versions"]
        lines += [
            f"Times: `python benchmarks/step_times.py benchmarks/studies/{path.stem}.yaml`, medians of "
            f"{machine['rounds']} rounds of steps in turns, {machine['processor']}, {machine['threads']} threads, "
            f"torch {versions['torch']}."
        ]
    picture = path.with_name(f"{path.stem}-final.png")
    _plot_final(found, {method: each["relative"] for method, each in measured["methods"].items()}, picture)
    return [*lines, "", f"![training loss]({picture.name})", ""]


def _mean(rows: list[Row]) -> str:
    if not rows:
        return ""
    losses = [row["loss"] for row in rows]
    spread = _spread(losses)
    return f"{statistics.mean(losses):.4f}" + (f" ± {spread:.4f}" if spread is not None else "") + f" ({len(losses)})"


def _plot_final(found: dict[str, list[Row]], times: dict[str, float], path: Path) -> None:
    """Draw training losses, means of seeds, over tokens and where times are known over time; best methods first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    by_tokens, *by_time = figure.subplots(1, 2 if times else 1, sharey=True, squeeze=False)[0]
    ends = {method: statistics.mean(row["loss"] for row in own) for method, own in found.items()}
    losses = {}
    for number, method in enumerate(sorted(found, key=lambda each: ends[each])):
        tokens, _ = np.array(found[method][0]["curve"]).T
        curves = [np.array(row["curve"]).T for row in found[method]]
        losses[method] = np.mean([np.interp(tokens, *each) for each in curves], axis=0)  # resumed: a row more
        look = {"linewidth": 1, "color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
        by_tokens.plot(tokens, losses[method], label=f"{method}: {ends[method]:.3f}", **look)
        for axes in by_time if method in times else ():
            axes.plot(tokens * times[method], losses[method], **look)
    all_losses = np.concatenate(list(losses.values()))
    ylim = (all_losses.min() - 0.05, np.quantile(all_losses, 0.6))
    by_tokens.set(xlabel="tokens", ylabel="training loss (legend: validation)", ylim=ylim)
    for axes in by_time:
        axes.set(xlabel="time, in tokens of the first method")
    for axes in (by_tokens, *by_time):
        axes.grid(alpha=0.3)
    by_tokens.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _screen(rows: list[Row]) -> list[str]:
    """Return the table of runs that were tried once each, the best first."""
    if not rows:
        return []
    rates = sorted({row["lr"] for row in rows})
    methods: dict[str, dict[float, Row]] = {}
    for row in rows:
        methods.setdefault(row["method"], {})[row["lr"]] = row
    cells = [
        [
            method,
            f"{next(iter(tried.values()))['parameters'] / 1e6:.2f}M",
            *(f"{tried[lr]['loss']:.4f}" if lr in tried else "" for lr in rates),
        ]
        for method, tried in sorted(methods.items(), key=lambda pair: min(row["loss"] for row in pair[1].values()))
    ]
    head = ["method", "parameters", *(f"lr {lr:g}" for lr in rates)]
    return ["## Screen: one seed, one thing changed at a time", "", *markdown(head, cells), ""]


def _best(spec: dict[str, Any], searched: list[Row], method: str) -> Row | None:
    """Return the best run of a method at the first seed."""
    own = [row for row in searched if row["method"] == method and row["seed"] == spec["seeds"][0]]
    return min(own, key=lambda row: row["loss"], default=None)


def _seeds(base: Row, searched: list[Row]) -> list[Row]:
    """Return the runs that differ from a method's best in their seed alone, itself among them."""
    return [row for row in searched if all(row[key] == base[key] for key in ("method", "scale", "lr"))]


def _spread(losses: list[float]) -> float | None:
    return statistics.stdev(losses) if len(losses) > 1 else None


def _methods(bases: dict[str, Row], searched: list[Row]) -> list[str]:
    rows = []
    for method, base in sorted(bases.items(), key=lambda pair: pair[1]["loss"]):
        runs = _seeds(base, searched)
        losses = [row["loss"] for row in runs]
        spread = _spread(losses)
        mean = statistics.mean(losses)
        rows.append(
            [
                method,
                f"{base['parameters'] / 1e6:.2f}M",
                f"{base['lr']:g}",
                base["scale"],
                f"{mean:.4f}",
                f"{spread:.4f}" if spread is not None else "-",
                str(len(runs)),
                f"{math.exp(mean):.2f}",
                f"{statistics.mean(row['bits_per_byte'] for row in runs):.4f}",
                f"{statistics.median(row['step_seconds'] for row in runs):.2f}",
                f"{max(row['memory_bytes'] for row in runs) / 2**20:.0f}",
            ]
        )
    head = ["method", "parameters", "best lr", "initial scale", "loss, mean", "deviation", "seeds", "perplexity"]
    head += ["bits a byte", "step (s)", "peak memory of the process (MiB)"]
    return ["## Methods at their best", "", *markdown(head, rows), ""]


def _search(spec: dict[str, Any], searched: list[Row], picture: str) -> list[str]:
    first = [row for row in searched if row["seed"] == spec["seeds"][0]]
    rates = sorted({row["lr"] for row in first})
    rows = []
    for method in spec["methods"]:
        for scale in spec["scales"]:
            found = {row["lr"]: row["loss"] for row in first if (row["method"], row["scale"]) == (method, scale)}
            if found:
                rows.append([method, scale, *(f"{found[lr]:.4f}" if lr in found else "" for lr in rates)])
    head = ["method", "initial scale", *(f"{lr:g}" for lr in rates)]
    return ["## Search over learning rates, first seed", "", *markdown(head, rows), "", f"![rates]({picture})", ""]


def _ablations(
    spec: dict[str, Any], rows: list[Row], bases: dict[str, Row], searched: list[Row], picture: str
) -> list[str]:
    lines: list[str] = []
    for group, variants in spec.get("ablations", {}).items():
        cells = []
        for row in rows:
            if row["group"] == group and (base := bases.get(variants[row["method"]]["of"])):
                spread = _spread([each["loss"] for each in _seeds(base, searched)])
                change = row["loss"] - base["loss"]
                cells.append(
                    [
                        row["method"],
                        base["method"],
                        f"{row['parameters'] / 1e6:.2f}M",
                        f"{row['loss']:.4f}",
                        f"{change:+.4f}",
                        f"{change / spread:+.1f}" if spread else "-",
                    ]
                )
        if cells:
            head = ["variant", "of", "parameters", "loss", "change, same seed", "in deviations over seeds"]
            lines += [f"### {group}", "", *markdown(head, cells), ""]
    return ["## One thing changed", "", *lines, f"![ablations]({picture})", ""] if lines else []


def _plot_rates(spec: dict[str, Any], searched: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate(spec["methods"]):
        for scale, style in zip(spec["scales"], ("-", "--", ":"), strict=False):
            points = sorted(
                (row["lr"], row["loss"])
                for row in searched
                if (row["method"], row["scale"], row["seed"]) == (method, scale, spec["seeds"][0])
                and math.isfinite(row["loss"])
            )
            if points:
                label = f"{method}, {scale}"
                axes.plot(*zip(*points, strict=True), style, marker="o", color=f"C{number}", label=label)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="validation loss (nats a token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _plot_ablations(
    spec: dict[str, Any], rows: list[Row], bases: dict[str, Row], searched: list[Row], path: Path
) -> None:
    from matplotlib.figure import Figure

    entries = [
        (f"{group}: {row['method']}", row["loss"], f"C{number}")
        for number, (group, variants) in enumerate(spec["ablations"].items())
        for row in rows
        if row["group"] == group and math.isfinite(row["loss"])
    ]
    figure = Figure(figsize=(8, 2 + 0.26 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for place, (_, loss, color) in enumerate(entries):
        axes.plot(loss, place, "o", color=color)
    for number, (method, base) in enumerate(bases.items()):
        losses = [row["loss"] for row in _seeds(base, searched)]
        shade = ("0.2", "0.4", "0.55", "0.7", "0.8")[number % 5]
        axes.axvspan(min(losses), max(losses), color=shade, alpha=0.25)
        axes.axvline(base["loss"], color=shade, linewidth=1)
        axes.text(base["loss"], len(entries) - 0.3, method, rotation=90, fontsize=8, va="top", ha="center")
    axes.set(yticks=range(len(entries)), yticklabels=[name for name, _, _ in entries], xlabel="validation loss")
    axes.set_ylim(len(entries) + 1.6, -0.8)  # room for the methods' names
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)
