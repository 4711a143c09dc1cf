"""`lost config`: what the keys of a configuration mean."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson

if TYPE_CHECKING:
    from lost.config.reference import Key, Part

_COLUMNS = 100  # at most: longer lines are harder to read
_PAGE = """\
# Configuration

A YAML file of sections, or the name of a shipped one; `--set section.key=value` overrides a value. Keys that are left
out have their default. An unknown key, or a value that can't be, is refused with its line.

`lost config --explain KEY` says in a terminal what is below, of a key, a section or everything. This page is what
`lost config --reference` prints.
"""


def config(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A key such as optimizer.lr, or a section.", show_default=False)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what KEY may be, its default and its meaning; without KEY, of all.")
    ] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print docs/configuration.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Explain the keys of a configuration.

    What each may be, what it is if left out, and what it does.
    """
    from dataclasses import asdict

    from lost.cli.render.output import answer
    from lost.config import reference as schema
    from lost.errors import UserError

    if explain == reference or (reference and (key is not None or as_json)):
        raise UserError(
            f"expected --explain, with a key, a section or neither, or --reference alone; "
            f"ask `lost config --explain{f' {key}' if key else ''}`"
        )
    parts = schema.reference() if key is None else schema.explain(key)
    keys = [asdict(each) for part in parts for each in part.keys]
    answer(as_json, {"keys": keys}, _page(parts) if reference else _explained(parts, whole=key is None))


def _explained(parts: "list[Part]", whole: bool) -> Iterator[str]:
    """Yield lines for a terminal."""
    from shutil import get_terminal_size
    from textwrap import wrap

    columns = min(_COLUMNS, get_terminal_size((_COLUMNS, 0)).columns)
    for number, part in enumerate(parts):
        if part.meaning and (whole or len(part.keys) > 1):
            yield from ([""] if number else [])
            yield f"{part.path}: {part.meaning}"
            yield ""
        for key in part.keys:
            yield f"{key.path}: {key.values}; {_default(key)}"
            yield from wrap(key.meaning, columns, initial_indent="    ", subsequent_indent="    ")


def _page(parts: "list[Part]") -> Iterator[str]:
    """Yield the page of the documentation."""
    yield _PAGE
    for part in parts:
        yield f"## {part.path}\n"
        if part.meaning:
            yield f"{part.meaning}\n"
        yield "| key | may be | default | |\n| --- | --- | --- | --- |"
        for key in part.keys:
            name = key.path.removeprefix(f"{part.path}.")
            default = "required" if key.default is None else f"`{key.default}`"
            yield f"| `{name}` | {key.values} | {default} | {key.meaning} |"
        if part is not parts[-1]:
            yield ""


def _default(key: "Key") -> str:
    return "required" if key.default is None else f"default {key.default}"
