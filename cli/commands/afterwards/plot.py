"""`lost plot`: one figure of runs, in a file or in the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.commands.afterwards.report import Overwrite, Runs, check_replaceable
from lost.cli.options import path_option


def plot(
    runs: Runs,
    out: Annotated[
        Path | None,
        path_option("File to write: .png, .svg or .pdf. Without it, a plot in the terminal.", "--out", "-o"),
    ] = None,
    y: Annotated[str, typer.Option("--y", metavar="FIELD", help="Of metrics.jsonl: lr, loss_mean, ...")] = (
        "validation_loss"
    ),
    x: Annotated[str, typer.Option("--x", metavar="ACROSS", help="steps, tokens, hours or flops.")] = "tokens",
    overwrite: Overwrite = False,
) -> None:
    """Plot a field of runs' metrics, a line a run.

    The validation loss by tokens, unless something else is asked. A .png, .svg or .pdf of `lost plot` is replaced;
    another file only with --overwrite.
    """
    from lost.cli.render.output import note, say
    from lost.cli.render.streams import check_written
    from lost.errors import UserError
    from lost.report.curves import ACROSS, curve
    from lost.report.marks import is_picture
    from lost.report.plots import METRICS, STYLES, Metric, save_plot
    from lost.report.story import read_stories
    from lost.report.terminal import COLOURS, terminal_plot
    from lost.tracking.metrics import is_number
    from lost.utils.printable import printable
    from lost.utils.wording import did_you_mean

    if x not in ACROSS:
        raise UserError(f"--x {x}: {did_you_mean(x, ACROSS)}expected one of {', '.join(ACROSS)}")
    stories = read_stories(runs)
    metric = METRICS.get(y) or Metric(y, printable(y))
    fields = sorted({key for story in stories for row in story.rows for key in row if is_number(row[key])})
    if y not in fields:
        groups = dict.fromkeys(field.partition(".")[0] + (".…" if "." in field else "") for field in fields)
        raise UserError(
            f"--y {y}: none of these runs has reported it; {did_you_mean(y, fields)}they have: "
            f"{', '.join(groups) or 'nothing'}"
        )
    if not any(len(curve(story, story.rows, y, ACROSS[x]).x) for story in stories):
        raise UserError(
            f"--x {x}: where {y} was reported, {ACROSS[x].title} aren't known; expected another axis; try --x steps"
        )
    if out is None:
        print(terminal_plot(stories, metric, ACROSS[x]))
        if len(stories) > len(COLOURS):
            note(
                f"{len(stories)} runs share {len(COLOURS)} colours; name fewer, or draw them to a file with --out, "
                f"where lines of {len(COLOURS) * len(STYLES)} runs differ"
            )
    else:
        check_replaceable(out, overwrite, is_picture, "lost plot")
        save_plot(stories, metric, ACROSS[x], out)
        say(f"wrote {out}")
    check_written()
