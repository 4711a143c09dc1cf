"""`lost teach`: a teacher's predictions on disk, so that others learn from it without it."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, Backend, Device, Model, Threads, path_option


def teach(
    path: Model,
    data: Annotated[Path, path_option("Prepared set; its training text is what the model reads.")],
    out: Annotated[Path, path_option("Folder to write, which `teacher.path` of a run then names.")],
    seq_len: Annotated[
        int | None, typer.Option(help="data.seq_len of the runs that learn; default: the model's.", min=1)
    ] = None,
    top_k: Annotated[int, typer.Option(help="Entries to keep of each prediction, the likeliest.", min=1)] = 64,
    temperature: Annotated[
        float, typer.Option(help="teacher.temperature of the runs that learn.", min=1e-3, max=1e3)
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Windows at once.", min=1)] = 8,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace soft targets that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what a model predicts on a set, for runs to learn from.

    Of each prediction the likeliest entries are kept, as ids and float16 log-probabilities: four bytes an entry, six
    beyond 65,536 entries. A run with `teacher.path` set to the folder needs none of the model's weights; it must have
    the same data, `data.seq_len` and `teacher.temperature`. What was interrupted goes on with the same command.
    """
    from shlex import join

    from rich.console import Console
    from rich.progress import Progress

    from lost.cli.load import load_weights, open_model
    from lost.cli.render.output import answer, note
    from lost.data.dataset import Dataset
    from lost.training.teaching import lesson
    from lost.utils.wording import counted, sized

    source = open_model(path)
    length = seq_len or source.seq_len or source.config.data.seq_len
    dataset = Dataset(data)
    asked = lesson(source, dataset, out, length, top_k, temperature, overwrite)
    engine = load_weights(source, backend, device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("windows", total=asked.told.windows)
        told = asked.give(engine, batch_size, note, lambda done: progress.update(task, completed=done))
    learning = ["lost", "train", "CONFIG", "--data", str(data), f"teacher.path={out}"]
    # A run with others than these is refused, and what CONFIG has isn't known.
    learning += [f"data.seq_len={told.seq_len}", f"teacher.temperature={told.temperature}"]
    learning += [f"model.vocab_size={told.vocab_size}"] if told.vocab_size != dataset.tokenizer.vocab_size else []
    written = sum(file.size for file in (*told.ids, *told.log_probabilities))
    value = told.model_dump(mode="json", exclude={"ids", "log_probabilities"})
    answer(
        as_json,
        {"out": str(out), **value, "bytes": written},
        [
            f"{out}: {counted(told.windows, 'window')} of {told.seq_len}, the {told.top_k} likeliest of "
            f"{told.vocab_size:,} entries each, {sized(written)}",
            f"`{join(learning)}` learns from it",
        ],
    )
