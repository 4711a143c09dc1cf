"""A plot in the terminal, by plotext."""

import os
import shutil
import sys
from collections.abc import Sequence

from lost.report.curves import Across, Curve
from lost.report.plots import Metric
from lost.report.story import Story
from lost.utils.extras import need

_LINES = 24  # at most: what was printed before stays in sight
COLOURS = ("blue+", "orange+", "green+", "magenta+", "gold", "cyan+", "red+", "gray+")
_MARKERS = ("braille", "o", "x", "+", "*", "#", "@", "%")  # where there are no colours


def terminal_plot(stories: Sequence[Story], metric: Metric, across: Across) -> str:
    """Return a plot as lines of text, as wide as the terminal; in colour if standard output is one.

    Raises:
        MissingPackageError: plotext isn't installed.
    """
    plotext = need("plotext", "report", "a plot in the terminal")
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width, height = shutil.get_terminal_size()
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, min(height - 2, _LINES))
    curves = [metric.curve(story, across) for story in stories]
    lines = [line.smoothed() if metric.smooth else line for line in curves]
    logarithmic = metric.log and any((line.y > 0).any() for line in lines)
    for number, (story, line) in enumerate(zip(stories, lines, strict=True)):
        if logarithmic:  # plotext takes nothing else on such an axis
            line = Curve(line.x[line.y > 0], line.y[line.y > 0])
        if len(line.x):
            look = {"color": COLOURS[number % len(COLOURS)]} if coloured else {}
            marker = "braille" if coloured else _MARKERS[number % len(COLOURS)]
            plotext.plot(list(line.x), list(line.y), label=story.name, marker=marker, **look)
    if logarithmic:
        plotext.yscale("log")
    plotext.title(metric.title)
    plotext.xlabel(across.title)
    text = str(plotext.build()).rstrip()
    return text if coloured else str(plotext.uncolorize(text))
