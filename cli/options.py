"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; everything else goes to standard error.")]
Backend = Annotated[str, typer.Option(help="auto, torch or mlx; auto: MLX on Apple silicon, else PyTorch.")]
Device = Annotated[str, typer.Option(help="auto, cpu; with torch cuda, cuda:N, mps; with mlx gpu.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as optimizer.lr=3e-3.")
]
ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped name such as quickstart or llama_60m.")
]
RunOrCheckpoint = Annotated[
    Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder (its newest intact checkpoint) or a checkpoint.")
]
