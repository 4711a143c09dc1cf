"""`lost convert`: a checkpoint in another form."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lost.cli.options import AsJson, RunOrCheckpoint

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.export.folder import Form


def convert(
    source: RunOrCheckpoint,
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    to: Annotated[
        Literal["lost", "hf", "mlx-lm", "dense"],
        typer.Option(
            help="lost: a checkpoint of our own. hf, mlx-lm: one folder for both, layers as they are. dense: a plain "
            "Llama, each layer merged into one matrix, which takes layers without activation."
        ),
    ] = "lost",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Type of the numbers; default: as they are.")
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only", help="--to lost: without the optimizer's state, a third of the size, for use only."
        ),
    ] = False,
    part_mib: Annotated[int, typer.Option(help="Begin a new file after this many MiB.", min=1)] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier conversion made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Re-write a checkpoint, or export it.

    Re-written: in another type, without the optimizer's state, in files of another size; read back and compared, array
    by array, before success is reported. Exported: transformers and mlx-lm, as far as they are installed, open the
    folder and must agree with our engine on log-probabilities and token ids, else nothing is left. A run needs no
    conversion to move between PyTorch and MLX.
    """
    from lost.cli.output import note
    from lost.errors import UserError
    from lost.run import find_checkpoint

    if weights_only and to != "lost":
        raise UserError(
            f"--weights-only with --to {to}: exported folders never hold an optimizer's state; leave it out"
        )
    checkpoint, rejected = find_checkpoint(source)
    for reason in rejected:
        note(f"passed over: {reason}")
    if to == "lost":
        _rewrite(checkpoint, out, dtype, weights_only, part_mib << 20, overwrite, as_json)
    else:
        _export(checkpoint, out, to, dtype, part_mib << 20, overwrite, as_json)


def _rewrite(
    checkpoint: "Checkpoint",
    out: Path,
    dtype: Literal["float32", "bfloat16"] | None,
    weights_only: bool,
    part_bytes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    from lost.cli.output import answer, size
    from lost.convert import rewrite

    written = rewrite(checkpoint, out, dtype, weights_only, part_bytes, overwrite)
    before, after = (sum(seal["size"] for seal in each.files.values()) for each in (checkpoint, written))
    value = {"path": str(out), "source": str(checkpoint.path), "to": "lost", "step": written.progress.step}
    value |= {"dtype": written.config.train.param_dtype, "optimizer": not weights_only, "bytes": after}
    what = "weights" if weights_only else "weights and optimizer state"
    lines = [
        f"{checkpoint.path} -> {out}: step {written.progress.step}, {what} in {written.config.train.param_dtype}, "
        f"{size(after)} (was {size(before)}) in {len(written.files)} files; read back and compared"
    ]
    answer(as_json, value, lines)


def _export(
    checkpoint: "Checkpoint",
    out: Path,
    to: "Form",
    dtype: Literal["float32", "bfloat16"] | None,
    part_bytes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from lost.cli.output import answer, note, size
    from lost.export.folder import export

    made = export(checkpoint, out, to, dtype, part_bytes, overwrite)
    for reader, reason in made.missing.items():
        note(f"not checked with {reader}, which can't be used here: {reason}")
    if not made.agreements:
        note(
            f"{out} was NOT checked: install transformers or mlx-lm, and convert again, to have it opened and compared"
        )
    value = {"path": str(out), "source": str(checkpoint.path), "to": to, "step": checkpoint.progress.step}
    value |= {"dtype": made.dtype, "bytes": made.bytes, "needs_code": not made.plain}
    checks = [asdict(each) for each in made.agreements]
    opens = "opens without code of ours" if made.plain else "opens with trust_remote_code"
    lines = [
        f"{checkpoint.path} -> {out}: step {checkpoint.progress.step}, weights in {made.dtype}, {size(made.bytes)}; "
        f"{opens}",
        *(
            f"{each.reader}: log-probabilities differ by at most {each.difference:.1e}; the same token ids for "
            f"{each.texts} texts"
            for each in made.agreements
        ),
    ]
    answer(as_json, {**value, "checks": checks, "checked": bool(checks)}, lines)
