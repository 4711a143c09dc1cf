"""`lost report`: runs as a page to look at."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, local_path, path_option

Runs = Annotated[
    list[Path],
    typer.Argument(parser=local_path, metavar="RUN", help="Run folders, or folders of them.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace whatever file has this name.")]


def report(
    runs: Runs,
    out: Annotated[Path | None, path_option("HTML file to write; default: report.html.", "--out", "-o")] = None,
    layers: Annotated[bool, typer.Option(help="Look into the weights: a decomposition a layer.")] = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a page about runs.

    Curves, what differs between the runs, their layers, how they were made.

    One HTML file that needs no network and no script. Several runs are drawn over each other. A page of `lost report`
    is replaced; another file only with --overwrite.
    """
    from lost.cli.render.output import answer
    from lost.errors import UserError
    from lost.report.marks import is_page
    from lost.report.page import page
    from lost.report.story import read_stories
    from lost.storage.files import replace_text
    from lost.utils.wording import sized

    out = out or Path("report.html")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; expected a place in one that is there")
    if out.is_dir():
        raise UserError(f"--out {out}: it is a folder; expected a file's name, such as {out / 'report.html'}")
    check_replaceable(out, overwrite, is_page, "lost report")
    text = page(read_stories(runs), layers)
    replace_text(out, text)
    answer(as_json, {"path": str(out), "bytes": len(text.encode())}, [f"wrote {out} ({sized(len(text.encode()))})"])


def check_replaceable(out: Path, overwrite: bool, ours: Callable[[Path], bool], command: str) -> None:
    """See that nothing but an earlier answer of a command is replaced by the next one, unless that is asked for.

    Args:
        out: where it goes.
        overwrite: whether it was asked for.
        ours: tells such an answer.
        command: the command.

    Raises:
        UserError: something else is there.
    """
    from lost.errors import UserError

    if not os.path.lexists(out):
        return
    if not out.is_file():
        raise UserError(f"--out {out}: it is no file; expected a new file's name, or one to replace; name another")
    if not overwrite and not ours(out):
        raise UserError(
            f"--out {out}: a file is there that `{command}` hasn't made, as far as it can tell; expected a new name, or "
            "a file of its own to replace; choose another name, or add --overwrite"
        )
