"""`lost config`: shipped configurations, and what their keys mean."""

import itertools
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
        str | None,
        typer.Argument(
            metavar="NAME|KEY",
            help="A shipped configuration; with --explain a key such as optimizer.lr, or a section.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what KEY may be, its default and its meaning; without KEY, of all.")
    ] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print docs/configuration.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a shipped configuration to start from, or explain keys.

    `lost config quickstart > mine.yaml` is a file to change. With --explain: what each key may be, what it is if left
    out, and what it does. Without anything: the names of what ships.
    """
    from dataclasses import asdict

    from lost.cli.render.output import answer
    from lost.config import reference as schema
    from lost.errors import UserError

    if (explain and reference) or (reference and (key is not None or as_json)):
        raise UserError("expected --explain, with a key, a section or neither, or --reference alone")
    if not explain and not reference:
        _print_shipped(key, as_json)
        return
    parts = schema.reference() if key is None else schema.explain(key)
    keys = [asdict(each) for part in parts for each in part.keys]
    answer(as_json, {"keys": keys}, _page(parts) if reference else _explained(parts, whole=key is None))


def _print_shipped(name: str | None, as_json: bool) -> None:
    """Print a shipped configuration, or the names of all.

    Raises:
        UserError: there is none of that name.
    """
    from lost.cli.render.output import answer
    from lost.config.reference import nearest
    from lost.errors import UserError
    from lost.model.load import load_config, shipped
    from lost.utils.wording import did_you_mean

    files = shipped()
    if name is None:
        lines = [f"{each}: {_summary(path.read_text())}" for each, path in files.items()]
        answer(as_json, {"shipped": list(files)}, lines)
        return
    if name not in files:
        key = f"; of a key, ask `lost config --explain {near}`" if (near := nearest(name)) else ""
        known = f"{did_you_mean(name, files)}expected a name that ships: {', '.join(files)}"
        raise UserError(f"{name} is no shipped configuration; {known}{key}")
    answer(as_json, {name: load_config(name).model_dump()}, [files[name].read_text().rstrip()])


def _summary(text: str) -> str:
    """Return the first sentence of a file's comment."""
    comment = itertools.takewhile(lambda line: line.startswith("# "), text.splitlines())
    return " ".join(line.removeprefix("# ") for line in comment).partition(". ")[0].removesuffix(".")


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
