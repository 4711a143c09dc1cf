"""What a sweep found: its table, in Markdown too, and its plot."""

import io
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from lost.errors import MissingPackageError
from lost.storage.files import replace_bytes, replace_text
from lost.sweep.plan import Cell
from lost.sweep.results import Results
from lost.utils.extras import need
from lost.utils.printable import printable

TABLE, PLOT = "table.md", "loss.png"


def write_report(results: Results, title: str) -> None:
    """Write table.md into the sweep's folder, and loss.png beside it where matplotlib is installed.

    Raises:
        StorageError: the disk refused.
    """
    head, rows = table(results)
    lines = [f"# {title}", "", *markdown(head, rows)]
    if results.sweep.key:
        lines += ["", f"## Loss by {results.sweep.key}, first seed", "", *markdown(*searches(results))]
    try:
        plotted = _plot(results)
    except MissingPackageError:
        plotted = False
    lines += ["", f"![loss]({PLOT})"] if plotted else []
    replace_text(results.folder / TABLE, "\n".join(lines) + "\n")


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table; what would end a cell is escaped."""
    head = list(head)
    lines = (head, ["---"] * len(head), *rows)
    return [
        "| " + " | ".join(printable(each).replace("|", r"\|").replace("\n", " ") for each in cells) + " |"
        for cells in lines
    ]


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names, and a row a cell that something is known of, the best loss first."""
    sweep = results.sweep
    losses = results.losses()
    found = []
    for cell in sweep.cells:
        best = sweep.best(cell, losses)
        seeds = [sweep.trial(cell, best.value, seed) for seed in sweep.seeds] if best else []
        if rows := [row for trial in seeds if (row := results.row(trial))]:
            found.append((statistics.mean(losses[row["name"]] for row in rows), cell, rows))
    head = [*sweep.axes, *([sweep.key] if sweep.key else []), "loss", "deviation", "seeds", "bits a byte", "parameters"]
    return [*head, "step (s)"], [
        [*cell.names.values(), *([f"{rows[0]['value']:g}"] if sweep.key else []), *_numbers(mean, rows)]
        for mean, cell, rows in sorted(found, key=lambda each: each[0])
    ]


def searches(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names, and a row a cell: the first seed's loss at each value that was tried."""
    known = [(cell, curve(results, cell)) for cell in results.sweep.cells]
    values = sorted({value for _, curve in known for value in curve})
    return [*results.sweep.axes, *(f"{value:g}" for value in values)], [
        [*cell.names.values(), *(_loss(curve[value]) if value in curve else "" for value in values)]
        for cell, curve in known
        if curve
    ]


def curve(results: Results, cell: Cell) -> dict[float, float]:
    """Return the first seed's loss by the value that is searched, as far as it is known."""
    sweep, losses = results.sweep, results.losses()
    trials = (sweep.trial(cell, value, sweep.seeds[0]) for value in sweep.values(cell, losses)[0])
    return {trial.value: losses[trial.name] for trial in trials if trial.value is not None and trial.name in losses}


def _numbers(mean: float, rows: Sequence[dict[str, Any]]) -> list[str]:
    losses, first = [row["loss"] for row in rows], rows[0]
    spread = statistics.stdev(losses) if len(losses) > 1 and math.isfinite(mean) else None
    bits = [row["bits_per_byte"] for row in rows]
    return [
        _loss(mean),
        "" if spread is None else f"{spread:.4f}",
        str(len(rows)),
        f"{statistics.mean(bits):.4f}" if None not in bits else "",
        f"{first['parameters'] / 1e6:.2f}M",
        f"{first['step_seconds']:.3g}" if first["step_seconds"] else "",
    ]


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "diverged"


def _plot(results: Results) -> bool:
    """Plot the loss by what is searched, or by the last axis that has numbers, or by parameters; return whether it can.

    Raises:
        MissingPackageError: matplotlib isn't installed.
    """
    lines = _lines(results)
    if not lines:
        return False
    figure = need("matplotlib.figure", "study", "plotting a sweep").Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label.replace("$", r"\$"))
    axes.set(xscale="log", ylabel="validation loss (nats a token)")
    axes.set_xlabel(_across(results) or "parameters", parse_math=False)
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    replace_bytes(results.folder / PLOT, picture.getvalue())
    return True


def _across(results: Results) -> str | None:
    """Return what the plot's x axis is: what is searched, or the last axis whose values are positive numbers."""
    if results.sweep.key:
        return results.sweep.key
    numbers = [axis for axis in results.sweep.axes if all(_number(cell.names[axis]) for cell in results.sweep.cells)]
    return numbers[-1] if numbers else None


def _sizes(results: Results) -> str | None:
    """Return the first axis along which models differ in their number of parameters, whatever the other axes say."""
    for axis in results.sweep.axes:
        counts: dict[str, list[int]] = {}
        for cell in results.sweep.cells:
            if known := _rows(results, cell):
                counts.setdefault(_label(cell, axis), []).append(known[0]["parameters"])
        if counts and all(len(set(each)) == len(each) > 1 for each in counts.values()):
            return axis
    return None


def _lines(results: Results) -> dict[str, list[tuple[float, float]]]:
    """Return points to plot, by the names of the axes that aren't plotted across."""
    across, lines = _across(results), dict[str, list[tuple[float, float]]]()
    sizes = None if across else _sizes(results)
    for cell in results.sweep.cells:
        points, known = [], _rows(results, cell)
        if results.sweep.key:
            points = list(curve(results, cell).items())
        elif known and (across or sizes):
            place = float(cell.names[across]) if across else known[0]["parameters"]
            points = [(place, statistics.mean(results.losses()[row["name"]] for row in known))]
        if points := [point for point in points if math.isfinite(point[1])]:
            lines.setdefault(_label(cell, across or sizes), []).extend(points)
    return lines


def _rows(results: Results, cell: Cell) -> list[dict[str, Any]]:
    """Return the lines of a cell's runs that are done, of all seeds, where nothing is searched."""
    if results.sweep.key:
        return []
    trials = (results.sweep.trial(cell, None, seed) for seed in results.sweep.seeds)
    return [row for trial in trials if (row := results.row(trial))]


def _label(cell: Cell, without: str | None) -> str:
    return ", ".join(name for axis, name in cell.names.items() if axis != without)


def _number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
