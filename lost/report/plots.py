"""Pictures of runs, by matplotlib: as SVG for a page, whose style sheet colours them, or as a file."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lost.errors import UserError
from lost.report.curves import Across, Curve, curve
from lost.report.marks import GENERATOR, METADATA
from lost.report.story import Story
from lost.storage.files import replace_bytes
from lost.utils.extras import need
from lost.utils.printable import printable

# Colours of lines: told apart by those who don't see red or green (Wong, Nature Methods 8, 441, 2011), on white and
# on black. The page's style sheet has its own for both.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#e69f00", "#777777")
STYLES = ("solid", "dashed", "dotted")  # of the lines of more runs than colours, as matplotlib and CSS call them
_BLOCKS, _VALUES = 12, 80  # of a plot of spectra: lines, and points of a line
_PLACE = (0.175, 0.155, 0.805, 0.77)  # of axes with numbers alone around them: left, bottom, width, height, in shares
_INK, _GRID = "#101010", "#d0d0d0"
_VARIABLES = {_INK: "--ink", _GRID: "--grid"} | {colour: f"--run{n}" for n, colour in enumerate(COLOURS)}


@dataclass(frozen=True)
class Metric:
    """A field of a run's rows that is drawn.

    Attributes:
        key: the field.
        title: of the plot.
        log: whether its axis is logarithmic.
        smooth: whether its running mean is drawn over it.
        unit: of the title, in the field's own.
    """

    key: str
    title: str
    log: bool = False
    smooth: bool = False
    unit: float = 1.0

    def curve(self, story: Story, across: Across) -> Curve:
        """Return the curve of a run."""
        line = curve(story, story.rows, self.key, across)
        return Curve(line.x, line.y / self.unit)


METRICS = {
    each.key: each
    for each in (
        Metric("loss_mean", "training loss", smooth=True),
        Metric("validation_loss", "validation loss"),
        Metric("lr", "learning rate"),
        Metric("grad_norm", "gradient norm", log=True, smooth=True),
        Metric("tokens_per_second", "tokens a second", smooth=True),
        Metric("mfu", "model FLOPs utilization (MFU)", smooth=True),
        Metric("memory_bytes", "memory (GiB)", unit=2**30),
        Metric("skipped", "updates left out"),
        Metric("divergence", "divergence from the teacher, nats a token"),
        Metric("stall_seconds", "training held up by a save (s)"),
        Metric("noise_scale", "noise scale of gradients (tokens)", log=True),
        Metric("largest_logit", "largest logit"),
    )
}


def metric_svg(stories: Sequence[Story], metric: Metric, across: Across) -> str | None:
    """Return a plot of one field, a line a run, as SVG; None: no run has it."""
    with _figure(layout=None) as figure:
        return _svg(figure) if draw(figure.add_axes(_PLACE), stories, metric, across) else None


def save_plot(stories: Sequence[Story], metric: Metric, across: Across, path: Path) -> None:
    """Write a plot with a legend to a file of the type that its name says.

    Raises:
        UserError: matplotlib writes no such type.
        OSError: it can't be written.
    """
    with _figure() as figure:
        known = figure.canvas.get_supported_filetypes()
        if path.suffix[1:].lower() not in known:
            raise UserError(f"{path}: no picture of this type can be written; expected .{', .'.join(sorted(known))}")
        axes = figure.subplots()
        draw(axes, stories, metric, across)
        axes.set_ylabel(metric.title, parse_math=False)
        if len(stories) > 1:
            axes.legend(fontsize=8)
        picture = io.BytesIO()
        kind = path.suffix[1:].lower()
        named = {"metadata": {METADATA[kind]: GENERATOR}} if kind in METADATA else {}
        figure.savefig(picture, dpi=160, format=kind, **named)
    replace_bytes(path, picture.getvalue())


def draw(axes: Any, stories: Sequence[Story], metric: Metric, across: Across) -> bool:
    """Draw one field of every run; return whether there is more to see than a count that stayed 0."""
    found = False
    for number, story in enumerate(stories):
        whole = metric.curve(story, across)
        if not len(whole.y):
            continue
        found |= bool(whole.y.any())
        colour, style = look(number)
        named = {"color": COLOURS[colour], "linestyle": style, "label": story.name.replace("$", r"\$")}
        thin = whole.thinned()
        if metric.smooth and len(whole.x) > 20:
            axes.plot(thin.x, thin.y, alpha=0.25, linewidth=0.8, color=COLOURS[colour])
            thin = whole.smoothed().thinned()
        marker = {"marker": "o", "markersize": 3} if len(thin.x) <= 40 else {}
        axes.plot(thin.x, thin.y, linewidth=1.5, **named, **marker)
    if metric.log and _any_positive(axes):
        axes.set_yscale("log")
    axes.set_xlabel(across.title)
    axes.margins(x=0.01)
    axes.grid(linewidth=0.6)
    return found


def look(number: int) -> tuple[int, str]:
    """Return which of the colours a run's line has, and its style."""
    styles, colour = divmod(number, len(COLOURS))
    return colour, STYLES[styles % len(STYLES)]


def _any_positive(axes: Any) -> bool:
    """Whether a logarithmic axis would show anything; else matplotlib draws none."""
    return any((line.get_ydata() > 0).any() for line in axes.lines)


def lines_svg(lines: dict[str, Curve], across: str, title: str) -> str:
    """Return a plot of a run's own lines, with a name at each line's end.

    Args:
        lines: by name.
        across: title of the x axis, which counts.
        title: of the y axis.
    """
    with _figure() as figure:
        axes = figure.subplots()
        for number, (name, line) in enumerate(lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(line.x, line.y, marker="o", markersize=3, linewidth=1.2, color=colour)
            end = (line.x[-1], line.y[-1])
            axes.annotate(printable(name), end, (4, 0), textcoords="offset points", fontsize=7, va="center",
                          color=colour, parse_math=False)  # fmt: skip
        axes.set(xlabel=across, ylabel=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.03)
        axes.grid(linewidth=0.6)
        return _svg(figure)


def spectra_svg(spectra: Sequence[np.ndarray]) -> str:
    """Return a plot of singular values, a line a block, the first one palest.

    Args:
        spectra: descending, of one projection, of each block.
    """
    with _figure(layout=None) as figure:
        axes = figure.add_axes(_PLACE)
        for block in dict.fromkeys(np.linspace(0, len(spectra) - 1, _BLOCKS).astype(int)):
            values = spectra[block][spectra[block] > 1e-7 * spectra[block].max()]
            places = np.unique(np.geomspace(1, len(values), _VALUES).astype(int)) if len(values) else np.array([], int)
            depth = 1.0 if len(spectra) == 1 else 0.25 + 0.75 * block / (len(spectra) - 1)
            axes.plot(places, values[places - 1], color=COLOURS[0], alpha=depth, linewidth=1)
        axes.set_xlabel("number")
        if _any_positive(axes):  # a layer that starts at zero has none
            axes.set(xscale="log", yscale="log")
        axes.grid(linewidth=0.6)
        return _svg(figure)


def channels_svg(channels: dict[str, np.ndarray], widths: Iterable[int]) -> str:
    """Return a plot of which input channels are kept, a row a projection."""
    names, limit = list(channels), max(widths)
    with _figure(height=0.6 + 0.11 * len(names)) as figure:
        axes = figure.subplots()
        axes.eventplot(list(channels.values()), lineoffsets=range(len(names)), linelengths=0.8, linewidths=0.6,
                       color=COLOURS[0], rasterized=sum(map(len, channels.values())) > 5000)  # fmt: skip
        axes.set(xlabel="input channel", xlim=(-1, limit), ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names, fontsize=5)
        return _svg(figure)


@contextmanager
def _figure(height: float = 3.0, layout: str | None = "constrained") -> Iterator[Any]:
    """Yield a figure that knows nothing of the screen, or of other figures.

    Args:
        height: in inches.
        layout: what makes room for names, by drawing all twice; None: nothing does.
    """
    library = need("matplotlib", "report", "a report's plots")
    style = {
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "grid.color": _GRID, "svg.fonttype": "none", "svg.hashsalt": "lost", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "path.simplify": True,
    }  # fmt: skip
    figure = need("matplotlib.figure", "report", "a report's plots")
    with library.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font lacks, and names too long for a picture
        yield figure.Figure(figsize=(4.8, height), layout=layout)


def _svg(figure: Any) -> str:
    """Return a figure as SVG without a background, its colours those of the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)  # as wide as its place
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable})")
    return text
