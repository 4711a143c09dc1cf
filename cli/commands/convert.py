"""`lost convert`: checkpoints in another form, and imports of other libraries' models."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lost.cli.converting import adapters, exporting, growing, importing, rewriting, vocabulary
from lost.cli.converting.budgeting import BudgetOf, Search, SearchSeed, Share
from lost.cli.converting.exporting import DryRun, License, Public, Push
from lost.cli.converting.growing import Grow, LayersBy, Moments
from lost.cli.converting.importing import Calibrate, Density, MeasureOn, Rank, WeightBy
from lost.cli.converting.quantizing import Bits, GroupSize
from lost.cli.converting.request import Job, Request, check
from lost.cli.converting.rewriting import WeightsOnly
from lost.cli.converting.vocabulary import EndOfText, NewTokenizer, PruneVocab
from lost.cli.options import AsJson, Backend, Device, local_path, model_path

JOBS: tuple[Job, ...] = (growing.JOB, *vocabulary.JOBS, importing.JOB, *exporting.JOBS, adapters.JOB, rewriting.JOB)


def convert(
    context: typer.Context,
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
    rank: Rank = None,
    budget: Share = None,
    budget_of: BudgetOf = None,
    search: Search = None,
    seed: SearchSeed = None,
    density: Density = None,
    calibrate: Calibrate = None,
    weight_by: WeightBy = None,
    text: MeasureOn = None,
    bits: Bits = None,
    group_size: GroupSize = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "q8_0"] | None,
        typer.Option(
            help="Type of the weights; default: unchanged. float16 and q8_0, 8 bits, are for --to gguf, whose default "
            "is float16."
        ),
    ] = None,
    weights_only: WeightsOnly = False,
    tokenizer: NewTokenizer = None,
    end_of_text: EndOfText = None,
    prune_vocab: PruneVocab = [],
    part_mib: Annotated[
        int, typer.Option(help="Start a new file after so many MiB; a GGUF and adapters are one.", min=1)
    ] = 1024,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result of an earlier conversion.")
    ] = False,
    grow: Grow = [],
    layers_by: LayersBy = None,
    moments: Moments = None,
    license: License = None,
    push: Push = None,
    public: Public = False,
    dry_run: DryRun = False,
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
    request = Request.of(context, locals())
    from lost.cli.render.output import answer

    job = _chosen(request)
    check(request, job, JOBS)
    answer(as_json, *job.run(request))


def _chosen(request: Request) -> Job:
    """Return the first job whose own option was given, or what SRC is rewritten as."""
    return next((job for job in JOBS if job.title in request.given), rewriting.JOB)
