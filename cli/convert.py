"""`lost convert`: a checkpoint in another form, or another library's model as a checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lost.cli.options import AsJson, Backend, Device


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A run, a checkpoint, or with --from hf a Hugging Face model's folder."),
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make: the new checkpoint.")],
    to: Annotated[Literal["lost"], typer.Option(help="What to write: a checkpoint of our own.")] = "lost",
    source_kind: Annotated[
        Literal["lost", "hf"], typer.Option("--from", help="What SRC is: ours, or a dense Llama-family model.")
    ] = "lost",
    rank: Annotated[
        int | None, typer.Option(help="With --from hf: decompose projections to LOST layers of this rank.", min=1)
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="With --rank: share of input channels to keep; default 0.03.", min=0, max=1)
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="With --rank: text on whose activations the decomposition is to err little.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="With --from hf: text to measure perplexity on; default: the end of --calibrate."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Type of the numbers; default: as they are.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the optimizer's state: a third of the size, for use only.")
    ] = False,
    part_mib: Annotated[int, typer.Option(help="Begin a new file after this many MiB.", min=1)] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is already there.")] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Re-write a checkpoint, or read another library's model.

    In another type, without the optimizer's state, in files of another size. What was written is read back and
    compared, array by array, before success is reported. A run needs no conversion to move between PyTorch and MLX.

    With --from hf, SRC is a folder with config.json, safetensors and a tokenizer, of a Llama, Mistral, Qwen2 or Qwen3.
    It becomes a dense checkpoint, or with --rank one with LOST layers that come near its projections.
    """
    if source_kind == "hf":
        from lost.cli.importing import Request, import_folder

        limits = (rank, density, calibrate, text)
        import_folder(Request(source, out, dtype, part_mib << 20, overwrite, *limits, backend, device), as_json)
        return
    for_imports = {"--rank": rank, "--density": density, "--calibrate": calibrate, "--text": text}
    if given := [name for name, value in for_imports.items() if value is not None]:
        from lost.errors import UserError

        raise UserError(f"{', '.join(given)} without --from hf: SRC is taken for a checkpoint of ours; add --from hf")
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
