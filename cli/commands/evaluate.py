"""`lost eval`: perplexity and bits per byte, or the tasks of lm-evaluation-harness."""

from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lost.cli.options import AsJson, Backend, Device, Model, Threads, path_option

if TYPE_CHECKING:
    from lost.engine import Engine
    from lost.interop.source import Source


def evaluate(
    path: Model,
    data: Annotated[
        Path | None, path_option("Prepared set, whose validation split is used; default: the run's.")
    ] = None,
    text: Annotated[Path | None, path_option("Text instead: a file (.jsonl: many documents) or a folder.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="All of the run's validation text, whatever train.eval_tokens says.")
    ] = False,
    lineage: Annotated[
        bool,
        typer.Option("--lineage", help="Also print perplexity as scripts derived from GaLore compute it (too low)."),
    ] = False,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Run tasks of lm-evaluation-harness instead.")
    ] = None,
    include_path: Annotated[Path | None, path_option("With --tasks: a folder with your own tasks, as YAML.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="With --tasks: number of documents of each task; default: all.", min=1)
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="With --tasks: number of few-shot examples; default: the task's.", min=0)
    ] = None,
    every_checkpoint: Annotated[
        bool, typer.Option("--every-checkpoint", help="A table over all checkpoints that a run still has.")
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens read at once; default: data.seq_len; for tasks, max_position_embeddings.", min=1),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows at once; default: the run's.", min=1)] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity and bits per byte.

    Every token of the text is predicted exactly once, and the mean is over tokens, without padding. On examples from
    `lost prepare --examples`, only what is to be learned counts: completions, not prompts. Without --data and --text,
    it is the evaluation that training ends with: the same figures, over train.eval_tokens of the run's validation text,
    and of the sets under data.also_evaluate. With --tasks, runs tasks of lm-evaluation-harness instead. With
    --every-checkpoint, does so for each checkpoint of a run (train.keep_every keeps more of them).
    """
    from lost.cli.checkpoints import measure_every, open_every
    from lost.cli.load import context_of, load_weights, open_model
    from lost.cli.render.output import answer
    from lost.cli.tasks import load_tasks, run_tasks
    from lost.cli.texts import open_texts, run_texts
    from lost.errors import UserError

    if data and text:
        raise UserError("--data and --text were both given; leave one of them out")
    if whole and (data or text):
        raise UserError("--whole has no effect with --data or --text, which are evaluated whole; leave it out")
    if tasks is not None and (data or text or lineage or whole):
        raise UserError("--tasks can't be combined with --data, --text, --whole or --lineage; leave one of them out")
    if tasks is None and (include_path or limit or num_fewshot is not None):
        raise UserError(
            "--include-path, --limit and --num-fewshot only have an effect with --tasks; add it, or leave them out"
        )
    if lineage and every_checkpoint:
        raise UserError("--lineage and --every-checkpoint can't be combined; leave one of them out")
    sources = open_every(path) if every_checkpoint else [open_model(path)]
    config = sources[-1].config
    if tasks is not None:
        window = context_of(config.model, context, config.model.max_position_embeddings)
        loaded = load_tasks(tasks, include_path, num_fewshot, window, backend)

        def measure(source: "Source", engine: "Engine") -> "tuple[dict[str, Any], list[str]]":
            return run_tasks(source, engine, loaded, window, batch_size, limit)
    else:
        window = context_of(config.model, context, config.data.seq_len)
        texts, size = open_texts(sources[-1], data, text, whole), batch_size or config.train.micro_batch

        def measure(source: "Source", engine: "Engine") -> "tuple[dict[str, Any], list[str]]":
            return run_texts(source, engine, texts, window, size, lineage)

    engine = load_weights(sources[-1], backend, device)
    if every_checkpoint:
        value, lines = measure_every(path, sources, engine, measure)
        answer(as_json, value, lines)
        if value["interrupted"]:
            raise typer.Exit(128 + SIGINT)
    else:
        answer(as_json, *measure(sources[0], engine))
