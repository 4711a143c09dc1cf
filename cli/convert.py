"""`lost convert`: a checkpoint in another form."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lost.cli.options import AsJson, RunOrCheckpoint


def convert(
    source: RunOrCheckpoint,
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make: the new checkpoint.")],
    to: Annotated[Literal["lost"], typer.Option(help="What to write: a checkpoint of our own.")] = "lost",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Type of the numbers; default: as they are.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the optimizer's state: a third of the size, for use only.")
    ] = False,
    part_mib: Annotated[int, typer.Option(help="Begin a new file after this many MiB.", min=1)] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is already there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Re-write a checkpoint.

    In another type, without the optimizer's state, in files of another size. What was written is read back and
    compared, array by array, before success is reported. A run needs no conversion to move between PyTorch and MLX.
    """
    from lost.cli.output import answer, note, size
    from lost.convert import rewrite
    from lost.run import find_checkpoint

    checkpoint, rejected = find_checkpoint(source)
    for reason in rejected:
        note(f"passed over: {reason}")
    written = rewrite(checkpoint, out, dtype, weights_only, part_mib << 20, overwrite)
    before, after = (sum(seal["size"] for seal in each.files.values()) for each in (checkpoint, written))
    value = {"path": str(out), "source": str(checkpoint.path), "to": to, "step": written.progress.step}
    value |= {"dtype": written.config.train.param_dtype, "optimizer": not weights_only, "bytes": after}
    names = sorted(written.files)
    what = "weights" if weights_only else "weights and optimizer state"
    lines = [
        f"{checkpoint.path} -> {out}: step {written.progress.step}, {what} in {written.config.train.param_dtype}, "
        f"{size(after)} (was {size(before)}) in {len(names)} files; read back and compared"
    ]
    answer(as_json, value, lines)
