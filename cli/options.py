"""Options that several commands share."""

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from lost.utils.threads import use_threads

_TOO_MANY = 2**63  # as indices are
_UNITS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


def _checked_stops(stops: list[str]) -> list[str]:
    """Return stop texts, each of which has something to stop at.

    Raises:
        UserError: one is empty.
    """
    from lost.errors import UserError

    if "" in stops:
        raise UserError("--stop '': every text ends before an empty one; name the text to stop at, or leave it out")
    return stops


def _use_threads(number: int | None) -> int | None:
    use_threads(number)
    return number


def local_path(text: str) -> Path:
    """Return the path that an option names: an empty one, such as an unset variable's, isn't the current folder.

    Raises:
        UserError: it is an address.
    """
    from lost.errors import UserError

    if not text:
        raise typer.BadParameter("expected a path, got an empty one")
    if "://" in text:
        raise UserError(
            f"{text} is an address, not a path: nothing is downloaded here; expected a file or folder; download it "
            "first (hf download owner/name --local-dir FOLDER). Models of the hub, hf://owner/name, are read by eval, "
            "generate, chat, inspect, teach, convert --from hf, train --init-from and prepare --tokenizer; data sets "
            "by prepare"
        )
    return Path(text)


def model_path(text: str) -> Path:
    """Return the path of a model, as `local_path` does, or what stands for one of the hub.

    Raises:
        UserError: it is another address.
    """
    if not text.startswith("hf:/"):  # or with a slash too few
        return local_path(text)
    from lost.interop.hub.download import address

    return address(text)


def path_option(text: str, *names: str, parser: Callable[[str], Path] = local_path) -> Any:
    """Return an option for a path, here unless `parser` takes others, with its help, and names beside its own."""
    return typer.Option(*names, parser=parser, metavar="<path>", help=text)


def count(text: str) -> int:
    """Return the number that a text such as 250, 10_000, 1.5M or 10B means."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    try:
        value = Decimal(number) * _UNITS.get(unit, 1)
        if 1 <= value < _TOO_MANY and value == value.to_integral_value():
            return int(value)
    except ArithmeticError:  # no number, an infinite one, one that isn't any
        pass
    raise typer.BadParameter(f"{text!r}: expected a whole number from 1 to 2**63, such as 250, 10_000, 1.5M or 10B")


def json_asked() -> bool:
    """Return whether --json was given, for what comes before options are read."""
    return "--json" in sys.argv


def count_option(text: str) -> Any:
    """Return an option for a number that may end in k, M, B or T."""
    return typer.Option(parser=count, metavar="N", help=f"{text} Such as 250, 10k, 1.5M or 10B.")


AsJson = Annotated[
    bool,
    typer.Option("--json", help='Print one JSON object, {"error": ...} on failure; all else goes to standard error.'),
]
Backend = Annotated[str, typer.Option(help="auto, torch or mlx; auto: MLX on Apple silicon, else PyTorch.")]
Device = Annotated[str, typer.Option(help="auto, cpu; with torch cuda, cuda:N, mps; with mlx gpu.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads on a CPU; default: the cores that this process may use.", min=1, max=4096, callback=_use_threads
    ),
]
"""Takes effect as it is read, before a framework is imported: commands only declare it."""
MaxTokens = Annotated[int, typer.Option(help="Most tokens to generate.", min=1)]
Stops = Annotated[
    list[str],
    typer.Option(
        "--stop", metavar="TEXT", help="End before this text; may be given several times.", callback=_checked_stops
    ),
]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Sample from the K likeliest tokens; 0: from all.")]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens with this total probability.")]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Divides the scores of tokens that the text has already; 1: none, 1.1 to 1.3 are usual.")
]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal text.", min=0)]
Raw = Annotated[bool, typer.Option("--raw", help="In a terminal, print control characters too, as in a pipe.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as optimizer.lr=3e-3.")
]
Assignments = Annotated[list[str], typer.Argument(metavar="KEY=VALUE", help="As with --set.", show_default=False)]
ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped name such as quickstart or llama_60m.")
]
Model = Annotated[
    Path,
    typer.Argument(
        parser=model_path,
        metavar="MODEL",
        help="A run folder (its newest intact checkpoint), a checkpoint, an export, a Hugging Face folder, or a model "
        "of the hub, hf://owner/name[@REVISION].",
    ),
]
