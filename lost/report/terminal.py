"""A plot in the terminal, by plotext."""

import os
import shutil
import sys
from collections.abc import Sequence

from lost.report.curves import Across, curve
from lost.report.plots import Metric
from lost.report.story import Story
from lost.utils.extras import need
from lost.utils.printable import printable

_LINES = 24  # at most: what was printed before stays in sight
_COLOURS = ("blue+", "orange+", "green+", "magenta+", "gold", "cyan+", "red+", "gray+")
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
    for number, story in enumerate(stories):
        line = curve(story, story.rows, metric.key, across)
        if metric.smooth:
            line = line.smoothed()
        if len(line.x):
            look = {"color": _COLOURS[number % 8]} if coloured else {}
            marker = "braille" if coloured else _MARKERS[number % 8]
            plotext.plot(list(line.x), list(line.y), label=printable(story.name), marker=marker, **look)
    if metric.log:
        plotext.yscale("log")
    plotext.title(metric.title)
    plotext.xlabel(across.title)
    text = str(plotext.build()).rstrip()
    return text if coloured else str(plotext.uncolorize(text))
