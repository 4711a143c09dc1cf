"""`lost report`: runs as a page to look at."""

import os
from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, local_path, path_option

Runs = Annotated[
    list[Path],
    typer.Argument(parser=local_path, metavar="RUN", help="Run folders, or folders of them.", show_default=False),
]


def report(
    runs: Runs,
    out: Annotated[Path | None, path_option("HTML file to write; default: report.html.", "--out", "-o")] = None,
    layers: Annotated[bool, typer.Option(help="Look into the weights: a decomposition a layer.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write a page about runs.

    Curves, what differs between the runs, their layers, how they were made.

    One HTML file that needs no network and no script. Several runs are drawn over each other.
    """
    from lost.cli.render.output import answer
    from lost.errors import UserError
    from lost.report.page import page
    from lost.report.story import read_stories
    from lost.storage.files import replace_text
    from lost.utils.wording import sized

    out = out or Path("report.html")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; expected a place in one that is there")
    if out.is_dir():
        raise UserError(f"--out {out}: it is a folder; expected a file's name, such as {out / 'report.html'}")
    if os.path.lexists(out) and not _is_page(out):
        raise UserError(f"--out {out}: something else is there; expected a new file's name, or a page to replace")
    text = page(read_stories(runs), layers)
    replace_text(out, text)
    answer(as_json, {"path": str(out), "bytes": len(text.encode())}, [f"wrote {out} ({sized(len(text.encode()))})"])


def _is_page(path: Path) -> bool:
    """Whether a file may be replaced by a page: it is one."""
    from lost.storage.nofollow import open_read

    try:
        with open_read(path, follow=True) as file:
            return file.read(15).lower() == b"<!doctype html>"
    except OSError:
        return False
