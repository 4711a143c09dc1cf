"""The page of a report: one HTML file that needs nothing else, neither a network nor a script."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lost import __version__
from lost.errors import LostError
from lost.model.inspect import LayerReport
from lost.model.load import dump
from lost.report.curves import ACROSS, Curve
from lost.report.inspections import inspections, within_block
from lost.report.plots import METRICS, Metric, channels_svg, lines_svg, look, metric_svg, spectra_svg
from lost.report.story import Layers, Story, differences
from lost.tracking.metrics import is_number
from lost.utils.extras import need
from lost.utils.printable import JOINERS, printable
from lost.utils.wording import counted, sized

_TEMPLATE = Path(__file__).with_name("page.html")
_LOG_LINES = 400
_FURTHER, _LOSS = "also_evaluated.", ".loss"
_SAMPLED, _LONGEST = 20, 5000  # steps whose samples are shown, and characters of each prompt and text


def page(stories: Sequence[Story], with_layers: bool) -> str:
    """Return the page.

    Args:
        stories: the runs.
        with_layers: whether their weights are looked into, which takes a decomposition a layer.

    Raises:
        MissingPackageError: matplotlib or jinja2 isn't installed.
    """
    jinja2 = need("jinja2", "report", "a report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    losses = [METRICS["loss_mean"], METRICS["validation_loss"]]
    others = [*_further(stories), *(metric for metric in METRICS.values() if metric not in losses)]
    steps = ACROSS["steps"]
    text = environment.from_string(_TEMPLATE.read_text()).render(
        title=", ".join(story.name for story in stories),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M %z"),
        across=list(ACROSS.values()),
        looks=[look(number) for number in range(len(stories))],
        runs=[_facts(story) for story in stories],
        differences=differences(stories),
        losses=[
            (metric.title, [(across.name, metric_svg(stories, metric, across)) for across in ACROSS.values()])
            for metric in losses
        ],
        others=[(metric.title, svg) for metric in others if (svg := metric_svg(stories, metric, steps))],
        inspected=[(story.name, plots) for story in stories if (plots := _inspected(story))],
        layers=[(story.name, _layers(story)) for story in stories] if with_layers else [],
    )
    return printable(text, JOINERS)


def _further(stories: Sequence[Story]) -> list[Metric]:
    """Return the losses on further sets (`data.also_evaluate`) that any run has."""
    found = dict.fromkeys(key for story in stories for row in story.validations for key in row)
    names = [key[len(_FURTHER) : -len(_LOSS)] for key in found if key.startswith(_FURTHER) and key.endswith(_LOSS)]
    return [Metric(f"{_FURTHER}{name}{_LOSS}", f"validation loss, {name}") for name in names]


def _inspected(story: Story) -> list[tuple[str, str]]:
    """Return plots of what a run measured of its layers, with their titles."""
    return [(title, lines_svg(lines, "steps", "")) for title, lines in inspections(story)]


def _facts(story: Story) -> dict[str, Any]:
    """Return what the page says of a run in words and numbers."""
    last = story.training[-1] if story.training else {}
    validation = story.validations[-1] if story.validations else {}
    own, dense = story.parameters
    seconds = max(story.seconds.values(), default=0.0)
    tokens = story.tokens(story.step)
    speeds = sorted(row["tokens_per_second"] for row in story.training if is_number(row.get("tokens_per_second")))
    memory = [row["memory_bytes"] for row in story.training if is_number(row.get("memory_bytes"))]
    starts = list(story.starts)
    total = story.config.schedule.total_steps
    rows = {
        "steps": f"{story.step:,} of {total:,}",
        "tokens": f"{tokens:,}",
        "parameters": f"{own:,} (dense: {dense:,})",
        "training loss": _number(last.get("loss_mean")),
        "validation loss": _number(validation.get("validation_loss")),
        "perplexity": _number(validation.get("perplexity"), 2),
        "bits a byte": _number(validation.get("bits_per_byte")),
        "time of training": _duration(seconds),
        "FLOPs": f"{tokens * story.flops_per_token:.3g}",
        "tokens a second": f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "",
        "most memory": sized(max(memory)) if memory else "",
        "updates left out": str(last.get("skipped", "")),
        "kind": story.config.projection.kind,
        "optimizer": f"{story.config.optimizer.name}, rate {story.config.optimizer.lr:g}",
        "started": counted(len(starts), "time"),
        "version": ", ".join(dict.fromkeys(version for version, _ in starts)),
    }
    return {
        "name": story.name,
        "folder": str(story.folder),
        "facts": rows,
        "command": starts[-1][1] if starts else "",
        "config": dump(story.config),
        "log": story.log[-_LOG_LINES:],
        "validations": [
            [f"{row['step']:,}", *(_number(row.get(key)) for key in ("validation_loss", "bits_per_byte"))]
            for row in story.validations
        ],
        "samples": [
            (f"{step:,}", [(prompt[:_LONGEST], text[:_LONGEST]) for prompt, text in found])
            for step, found in story.samples[:_SAMPLED]
        ],
    }


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: object, digits: int = 4) -> str:
    return f"{value:,.{digits}f}" if is_number(value) else ""


def _layers(story: Story) -> dict[str, Any]:
    """Return the plots of a run's layers, or why there are none."""
    try:
        layers = story.layers()
    except LostError as error:
        return {"reason": str(error)}
    plots = [lines_svg(lines, "block", title) for title, lines in _by_projection(layers)]
    widths = [report.shape[1] for report in layers.reports]
    kept = {name.removeprefix("model.layers."): array for name, array in layers.channels.items()}
    spectra: dict[str, list[np.ndarray]] = {}
    for report in (each for each in layers.reports if len(each.singular_values)):
        spectra.setdefault(within_block(report.name), []).append(report.singular_values)
    return {
        "step": layers.step,
        "plots": plots,
        "spectra": [(name, spectra_svg(values)) for name, values in spectra.items()],
        "channels": channels_svg(kept, widths) if kept else None,
    }


def _block(report: LayerReport) -> int:
    return int(report.name.split(".")[2])


def _by_projection(layers: Layers) -> Iterator[tuple[str, dict[str, Curve]]]:
    """Yield what is drawn by block: its title, and a line for each projection of a block."""
    for title, key in (
        ("effective rank", "effective_rank"),
        ("leading singular values' share", "spectrum"),
        ("sparse part's share", "sparse_share"),
        ("norm", "norm"),
    ):
        points: dict[str, list[tuple[int, float]]] = {}  # not each block has one, where kinds differ
        for report in layers.reports:
            if (value := getattr(report, key)) is not None:
                points.setdefault(within_block(report.name), []).append((_block(report), value))
        if points:
            yield title, {name: Curve(*np.array(line, np.float64).T) for name, line in points.items()}
