"""`lost train`: start or go on with a run."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lost.cli.options import AsJson, Backend, Device, Overrides

if TYPE_CHECKING:
    from lost.config import Config
    from lost.data.dataset import Dataset
    from lost.engine import Engine
    from lost.training.trainer import Result


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|RUN", help="A YAML file, a shipped name, or a run folder to go on with.", show_default=False
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder made by `lost prepare`.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(help="Begin a new run with the weights of a run, a checkpoint or a Hugging Face folder."),
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    overrides: Overrides = [],
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again at step 0 instead of resuming.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --fresh: remove the checkpoints that are there.")
    ] = False,
    wired_gib: Annotated[
        float | None, typer.Option(help="On a Mac: memory that MLX may keep from being paged out.", min=0, max=2048)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all that a start needs, say what was found, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start or resume a run.

    It resumes by itself when the run folder holds checkpoints and the configuration agrees. Ctrl-C saves and leaves
    with exit code 130; the same command goes on from there.

    With --init-from a new run begins at step 0 with weights from elsewhere: its own data, schedule and optimizer, whose
    moments are empty. Model and projection follow the weights where CONFIG doesn't say them; without CONFIG everything
    but the data does.

    With --dry-run the configuration, the data (every byte), the device, memory, the run folder and the room for its
    checkpoints are checked: exit code 0 if the run would start, 2 if not. Nothing is trained or written.
    """
    from lost.cli.render.dry_run import answer_dry_run
    from lost.cli.render.output import answer
    from lost.cli.render.progress import TrainingScreen
    from lost.distributed.group import agree
    from lost.engine import backend_module, resolve_backend
    from lost.errors import UserError
    from lost.model.load import load_config
    from lost.planning.budget import check_room
    from lost.planning.disk import disk_room
    from lost.storage.lock import locked
    from lost.tracking.log import logged
    from lost.training.dry_run import check_start, miniature
    from lost.training.init_from import begin_with, beginning, check_fit
    from lost.training.run_dir import begin_afresh, check_data, check_seen, start_or_resume, take
    from lost.training.signals import stop_on_signal
    from lost.training.trainer import open_data as open_splits
    from lost.training.trainer import train as train_run

    if overwrite and not fresh:
        raise UserError("--overwrite was given without --fresh: it would do nothing; add --fresh, or leave it out")
    file, folder = run_place(config, out, init_from)
    follows, source = beginning(init_from, folder, fresh, file is not None) if init_from else (None, None)
    settings = load_config(file, overrides, follows)
    dataset = open_data(settings, data)
    settings = with_data(settings, dataset)
    if source:
        check_fit(source, settings, dataset)
    open_splits(settings, dataset)
    name = resolve_backend(backend)
    module = backend_module(name)
    place, workers = module.resolve(device), module.join()
    check_room(settings, name, place, module.capacity(place), workers.count)
    if wired_gib is not None:
        wire(module, wired_gib)
    screen = TrainingScreen(settings.last_step, as_json, quiet=workers.rank > 0)
    engine = module.create(miniature(settings) if dry_run else settings, place, workers)
    check_data(dataset, workers)
    agree(workers, settings, dataset.fingerprint, name)  # all before anything in the folder is touched
    if dry_run:
        if found := check_start(settings, folder, dataset, engine, screen, fresh, overwrite):
            answer_dry_run(found, settings, folder, dataset, engine, source.path if source else None, as_json)
        workers.leave()
        return
    start = None
    with (
        stop_on_signal(screen.message, workers.sigterm_asks) as asked,
        locked(folder, screen.message) if workers.rank == 0 else nullcontext("") as job,
    ):
        check_seen(folder, job, workers)
        with logged(folder, screen, workers) as reporter, screen.live():
            if workers.rank > 0:
                pass  # rank 0 decides
            elif fresh:
                begin_afresh(settings, folder, reporter, overwrite)
            else:
                start = start_or_resume(settings, folder, dataset, reporter)
            if source and not start and workers.rank == 0:
                for text in (*source.remarks, f"beginning with the weights of {source.path}"):
                    reporter.message(text)
                start = begin_with(source, settings, folder, dataset)
            if workers.rank == 0:
                take(settings, folder)
            step = start.progress.step if start else 0
            if workers.rank == 0 and (short := disk_room(settings, folder, step).shortage):
                reporter.message(short)
            reporter.message(describe(settings, engine))
            result = train_run(settings, folder, dataset, engine, reporter, start, asked)
            reporter.message(ending(settings, engine, result))
        workers.leave()
    validation = result.validation
    value = {
        "run": str(folder),
        "step": result.progress.step,
        "tokens": result.progress.tokens,
        "seconds": result.progress.seconds,
        "checkpoint": str(result.checkpoint),
        "validation_loss": validation.loss if validation else None,
        "perplexity": validation.perplexity if validation else None,
        "bits_per_byte": validation.bits_per_byte if validation else None,
        "interrupted": result.interrupted,
    }
    if workers.rank == 0:
        answer(as_json, value, [])  # a person has read it above
    if result.interrupted:
        raise typer.Exit(130)


def run_place(config: str | None, out: Path | None, init_from: Path | None) -> tuple[Path | str | None, Path]:
    """Return the configuration's file or name, None where everything follows the weights, and the run folder.

    Raises:
        UserError: one of them isn't named.
    """
    from lost.errors import UserError
    from lost.training.run_dir import config_file

    if config is None:
        if init_from is None or out is None:
            raise UserError(
                "no configuration: expected a YAML file, a shipped name such as quickstart, or a run folder; name one, "
                "or begin with other weights with --init-from RUN --out NEW_RUN"
            )
        return None, out
    if of_run := config_file(Path(config)):
        return of_run, out or Path(config)
    return config, out or Path("runs") / Path(config).stem


def open_data(config: "Config", data: Path | None) -> "Dataset":
    """Open the prepared set named on the command line, or what the configuration names."""
    from lost.data.dataset import Dataset
    from lost.data.mixture import open_dataset

    return Dataset(data) if data else open_dataset(config.data)


def with_data(config: "Config", dataset: "Dataset") -> "Config":
    """Return the configuration with the data's path and, where it is left open, its vocabulary.

    Raises:
        ConfigError: the data's tokenizer has ids beyond the model's vocabulary.
    """
    from lost.errors import ConfigError

    entries = dataset.tokenizer.vocab_size
    if config.model.vocab_size is None:
        config = config.replace("model", vocab_size=entries)
    elif config.model.vocab_size < entries:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size}: the tokenizer of {dataset.path} has ids up to "
            f"{entries - 1}; expected at least {entries}; raise model.vocab_size, remove it, or prepare the data with "
            "a smaller one"
        )
    return config.replace("data", **dataset.settings())


def wire(module: Any, gib: float) -> None:
    """Wire memory, where the backend can.

    Raises:
        UserError: it can't.
    """
    from lost.errors import UserError

    if not hasattr(module, "wire"):
        raise UserError("--wired-gib: only --backend mlx wires memory; leave it out")
    module.wire(int(gib * 2**30))


def describe(config: "Config", engine: "Engine") -> str:
    """Return one line that says what is about to be trained."""
    from lost.cli.render.output import count
    from lost.planning.budget import budget, dense_twin

    own, dense = budget(config), budget(dense_twin(config))
    against = "" if config.projection.kind == "dense" else f" (dense: {count(dense.parameters)})"
    among = f" and {engine.workers.count - 1} more" if engine.workers.count > 1 else ""
    return (
        f"{config.projection.kind} model of {count(own.parameters)} parameters{against} on {engine.backend} "
        f"{engine.device}{among}, {config.train.dtype}, {config.train.batch_size} x {config.data.seq_len} tokens a step"
    )


def ending(config: "Config", engine: "Engine", result: "Result") -> str:
    """Return one line that says how a training ended."""
    from lost.cli.render.output import size

    verb = "stopped" if result.interrupted else "done"
    if result.progress.step < config.schedule.steps and not result.interrupted:
        verb = f"stopped by train.stop_after = {config.train.stop_after}"
    peak = size(engine.memory()["memory_bytes"])
    return f"{verb} at step {result.progress.step}: {result.checkpoint} (peak {peak})"
