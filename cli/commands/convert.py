"""`lost convert`: checkpoints in another form, and imports of other libraries' models."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lost.cli.options import AsJson, Backend, Device, local_path, model_path, path_option

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.cli.converting.pushing import Push
    from lost.config import DType
    from lost.interop.to_gguf.tensors import GgufType


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            parser=model_path,
            metavar="SRC",
            help="A run, a checkpoint, or with --from hf an export, a Hugging Face folder, or hf://owner/name.",
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=local_path, metavar="DST", help="Folder to make.")],
    to: Annotated[
        Literal["lost", "hf", "mlx-lm", "dense", "gguf", "peft"],
        typer.Option(
            help="lost: a checkpoint. hf, mlx-lm: one folder for both, with layers as they are. dense: a plain Llama, "
            "each layer merged into one matrix; only for layers without activation that don't look back. gguf: the "
            "same as one file for llama.cpp, with a Modelfile for Ollama. peft: adapters alone, which the others merge."
        ),
    ] = "lost",
    source_kind: Annotated[
        Literal["lost", "hf"], typer.Option("--from", help="Type of SRC: lost, or a Llama-family model or an export.")
    ] = "lost",
    rank: Annotated[
        int | None, typer.Option(help="With --from hf: decompose projections into LOST layers of this rank.", min=1)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="With --from hf, instead of --rank: ranks chosen layer by layer, so that the model has this share of "
            "its parameters, such as 0.5."
        ),
    ] = None,
    budget_of: Annotated[
        Literal["parameters", "flops"] | None, typer.Option(help="What --budget is a share of; default: parameters.")
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --budget and --calibrate: search better ranks for N generations, such as 30.", min=1
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of --search; default 0.", min=0)] = None,
    density: Annotated[
        float | None,
        typer.Option(help="With --rank or --budget: share of input channels to keep; default 0.03.", min=0, max=1),
    ] = None,
    calibrate: Annotated[
        Path | None,
        path_option("With --rank or --budget: calibration text, on whose activations the error is minimized."),
    ] = None,
    weight_by: Annotated[
        Literal["activations", "fisher"] | None,
        typer.Option(help="With --calibrate: what weights the error; fisher: squared gradients of the loss too."),
    ] = None,
    text: Annotated[
        Path | None,
        path_option(
            "With --from hf or --bits: text to measure perplexity on; default: the end of --calibrate, or the run's "
            "validation text."
        ),
    ] = None,
    bits: Annotated[
        Literal["4", "8"] | None,
        typer.Option(help="--to mlx-lm: quantize its matrices, by mlx-lm's own quantizer."),
    ] = None,
    group_size: Annotated[
        Literal["32", "64", "128"] | None,
        typer.Option(help="With --bits: entries with one scale and bias; default 64. Shorter rows stay as they are."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "q8_0"] | None,
        typer.Option(
            help="Type of the weights; default: unchanged. float16 and q8_0, 8 bits, are for --to gguf, whose default "
            "is float16."
        ),
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only", help="--to lost: without the optimizer state, a third of the size; can't be resumed."
        ),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        path_option(
            "Give the model this tokenizer, as lost prepare takes it, or that of a prepared set: tokens that both know "
            "keep their rows, others start as the mean of what their text was made of. Weights only.",
            parser=model_path,
        ),
    ] = None,
    end_of_text: Annotated[
        str | None, typer.Option(help="With --tokenizer: as in lost prepare, if its tokenizer.json doesn't define one.")
    ] = None,
    prune_vocab: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT",
            help="Keep the tokens that this text needs, read as lost prepare reads it, and what makes every text "
            "encodable; may be repeated. Weights only.",
        ),
    ] = [],
    part_mib: Annotated[int, typer.Option(help="Start a new file after so many MiB; a GGUF is one.", min=1)] = 1024,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result of an earlier conversion.")
    ] = False,
    grow: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="Grow the model: layers, hidden, intermediate, rank or density, such as layers=12; may be "
            "given several times.",
        ),
    ] = [],
    layers_by: Annotated[
        Literal["stack", "interleave", "identity"] | None,
        typer.Option(
            help="With --grow layers: repeat the whole stack, or each block in a row; identity: the latter, with "
            "copies that add nothing yet, so that the model computes the same. Default: stack."
        ),
    ] = None,
    moments: Annotated[
        Literal["drop", "keep"] | None,
        typer.Option(help="With --grow: whether the optimizer's moments grow too; default: drop."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="--to hf, mlx-lm, dense: the model's licence in its card, by the hub's name, such as apache-2.0."
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Upload the export to this repository of the hub, a private one; needs a token."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: everybody may see it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: write the export, and only list what would go up.")
    ] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Rewrite or export a checkpoint, or import a model of others.

    A checkpoint is rewritten in another type, without the optimizer state, or in files of another size, and every array
    is read back and compared. An exported folder is opened by transformers and mlx-lm, a GGUF file by llama.cpp, if
    installed, which must agree with our engine on log-probabilities and token ids; otherwise nothing is kept. A run
    needs no conversion to move between PyTorch and MLX.

    With --push, an export that was written and checked is uploaded; large files of an upload that broke off aren't sent
    again. Code 75: the hub can't be reached; try later.

    With --from hf, SRC is a folder with config.json, safetensors and a tokenizer, of a Llama, Mistral, Qwen2 or Qwen3.
    It becomes a dense checkpoint or, with --rank or --budget, one whose projections are approximated by LOST layers. An
    export of a run becomes a checkpoint of step 0 with the same layers.

    With --tokenizer or --prune-vocab the result has another vocabulary: start a run with it by lost train --init-from.

    With --grow, the checkpoint is one of a larger model, for `lost train --init-from`, or with --moments keep for
    --branch-from. But for layers that are repeated it computes what it did.
    """
    from lost.cli.converting.quantizing import quantization
    from lost.errors import UserError

    if grow or layers_by or moments:
        from lost.cli.converting.growing import check_growth

        others = {f"--to {to}": to != "lost", "--from hf": source_kind == "hf", f"--dtype {dtype}": dtype is not None}
        others |= {"--weights-only": weights_only, "--tokenizer": bool(tokenizer), "--prune-vocab": bool(prune_vocab)}
        check_growth(grow, layers_by, moments, others)
    own = None if to == "gguf" else _own_type(dtype, to)
    few = quantization(to, bits, group_size)
    upload = _upload(to, push, public, dry_run)
    if tokenizer or prune_vocab or end_of_text is not None:
        from lost.cli.converting.vocabulary import check_options

        check_options(tokenizer, prune_vocab, end_of_text, source_kind, to)
    if license is not None and to in ("lost", "gguf", "peft"):
        raise UserError(
            f"--license {license} with --to {to}: expected an export that has a card, of --to hf, mlx-lm or dense; "
            "leave it out"
        )
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            f"--license {license}: expected a licence by the hub's name, such as apache-2.0 or other; correct it"
        )
    if source_kind == "hf":
        if to != "lost":
            raise UserError(
                f"--from hf with --to {to}: not supported in one step; leave --to out, then export the result"
            )
        if weights_only:
            raise UserError("--weights-only with --from hf: the folder holds no optimizer state; leave it out")
        from lost.cli.converting.budgeting import asked
        from lost.cli.converting.importing import Request, import_folder

        limit = asked(budget, budget_of, search, seed, rank, calibrate)
        limits = (rank, limit, density, calibrate, weight_by, text)
        import_folder(Request(source, out, own, part_mib << 20, overwrite, *limits, backend, device), as_json)
        return
    if text and few is None:
        raise UserError(
            "--text without --from hf or --bits: there is nothing to measure on it; add one, or leave it out"
        )
    for_imports: dict[str, object] = {
        "--rank": rank,
        "--budget": budget,
        "--density": density,
        "--calibrate": calibrate,
    }
    for_imports |= {"--budget-of": budget_of, "--search": search, "--seed": seed, "--weight-by": weight_by}
    if given := [name for name, value in for_imports.items() if value is not None]:
        raise UserError(f"{', '.join(given)} without --from hf: only imports are decomposed or measured; add --from hf")
    if device != "auto" or (backend != "auto" and to == "lost"):
        option = f"--device {device}" if device != "auto" else f"--backend {backend}"
        expected = "exports are compared on the CPU" if to != "lost" else "nothing is computed"
        raise UserError(f"{option} with --to {to}: {expected}; leave it out")
    from lost.checkpoint import find_checkpoint
    from lost.cli.render.output import note
    from lost.interop.hub.download import as_typed, is_address
    from lost.interop.source import is_folder_of_another

    if weights_only and to != "lost":
        raise UserError(f"--weights-only with --to {to}: exported folders never hold an optimizer state; leave it out")
    if is_address(source) or is_folder_of_another(source):
        raise UserError(
            f"{as_typed(source)} is an export, or a model of another library; expected a run or a checkpoint of "
            "`lost train`; to make a checkpoint of it, add --from hf"
        )
    checkpoint, rejected = find_checkpoint(source)
    for reason in rejected:
        note(f"skipped: {reason}")
    if tokenizer or prune_vocab:
        from lost.cli.converting.vocabulary import change_vocabulary

        rest = (own, part_mib << 20, overwrite, as_json)
        change_vocabulary(checkpoint, out, tokenizer, end_of_text, prune_vocab, *rest)
    elif grow:
        from lost.cli.converting.growing import grow_checkpoint

        grow_checkpoint(checkpoint, out, grow, layers_by, moments == "keep", part_mib << 20, overwrite, as_json)
    elif to == "peft":
        from lost.cli.converting.adapters import export_adapters

        export_adapters(checkpoint, out, own, overwrite, backend, as_json)
    elif to == "lost":
        _rewrite(checkpoint, out, own, weights_only, part_mib << 20, overwrite, as_json)
    else:
        from lost.cli.converting.exporting import export_folder

        export_folder(
            checkpoint, out, to, dtype, part_mib << 20, overwrite, backend, license, upload, few, text, as_json
        )


def _upload(to: str, name: str | None, public: bool, dry_run: bool) -> "Push | None":
    """Return where the result is to be uploaded, if anywhere."""
    from lost.cli.converting.pushing import Push
    from lost.errors import UserError

    if name is None:
        if public or dry_run:
            option = "--public" if public else "--dry-run"
            raise UserError(f"{option} without --push: it says how an export is uploaded; add --push, or leave it out")
        return None
    if to in ("lost", "peft"):
        what = "checkpoints" if to == "lost" else "adapters alone"
        raise UserError(
            f"--push {name} with --to {to}: {what} aren't uploaded; expected an export; add --to hf, dense or gguf"
        )
    return Push(name, public, dry_run)


def _own_type(dtype: "GgufType | None", to: str) -> "DType | None":
    """Return a type that our checkpoints and folders have; the others are GGUF's."""
    if dtype == "float16" or dtype == "q8_0":
        from lost.errors import UserError

        raise UserError(f"--dtype {dtype} with --to {to}: expected float32 or bfloat16, or --to gguf; choose one")
    return dtype


def _rewrite(
    checkpoint: "Checkpoint",
    out: Path,
    dtype: "DType | None",
    weights_only: bool,
    part_bytes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    from lost.cli.render.output import answer
    from lost.interop.rewrite import rewrite
    from lost.utils.wording import counted, sized

    written = rewrite(checkpoint, out, dtype, weights_only, part_bytes, overwrite)
    before, after = (sum(seal["size"] for seal in each.files.values()) for each in (checkpoint, written))
    value = {"path": str(out), "source": str(checkpoint.path), "to": "lost", "step": written.progress.step}
    value |= {"dtype": written.config.train.param_dtype, "optimizer": not weights_only, "bytes": after}
    what = "weights" if weights_only else "weights and optimizer state"
    lines = [
        f"{checkpoint.path} -> {out}: step {written.progress.step}, {what} in {written.config.train.param_dtype}, "
        f"{sized(after)} (was {sized(before)}) in {counted(len(written.files), 'file')}; read back and compared"
    ]
    answer(as_json, value, lines)
