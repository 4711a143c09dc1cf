"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from lost.utils.threads import use_threads


def _use_threads(number: int | None) -> int | None:
    use_threads(number)
    return number


def folder(text: str) -> Path:
    """Return the folder that an option names: an empty name, such as an unset variable's, isn't the current folder."""
    if not text:
        raise typer.BadParameter("expected a folder's name, got an empty one")
    return Path(text)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; everything else goes to standard error.")]
Backend = Annotated[str, typer.Option(help="auto, torch or mlx; auto: MLX on Apple silicon, else PyTorch.")]
Device = Annotated[str, typer.Option(help="auto, cpu; with torch cuda, cuda:N, mps; with mlx gpu.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads on a CPU; default: the cores that this process may use.", min=1, max=4096, callback=_use_threads
    ),
]
"""Takes effect as it is read, before a framework is imported: commands only declare it."""
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as optimizer.lr=3e-3.")
]
ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped name such as quickstart or llama_60m.")
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run folder (its newest intact checkpoint), a checkpoint, an export, or a Hugging Face folder.",
    ),
]
