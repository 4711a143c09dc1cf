"""`lost train`: start or go on with a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson, Backend, Device, Overrides

if TYPE_CHECKING:
    from lost.config import Config
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
    from lost.training.dry_run import check_start, miniature
    from lost.training.start import Request, ready, start

    run = ready(Request(config, data, out, init_from, overrides, backend, device, wired_gib, fresh, overwrite))
    screen = TrainingScreen(run.config.last_step, as_json, quiet=run.workers.rank > 0)
    engine = run.engine(miniature(run.config) if dry_run else None)
    run.check()  # all before anything in the folder is touched
    if dry_run:
        if found := check_start(run, screen):
            answer_dry_run(found, run, as_json)
        run.workers.close()
        return
    result = start(run, engine, screen, screen.live, describe(run.config, engine), ending)
    validation = result.validation
    value = {
        "run": str(run.folder),
        "step": result.progress.step,
        "tokens": result.progress.tokens,
        "seconds": result.progress.seconds,
        "checkpoint": str(result.checkpoint),
        "validation_loss": validation.loss if validation else None,
        "perplexity": validation.perplexity if validation else None,
        "bits_per_byte": validation.bits_per_byte if validation else None,
        "interrupted": result.interrupted,
    }
    if run.workers.rank == 0:
        answer(as_json, value, [])  # a person has read it above
    if result.interrupted:
        raise typer.Exit(130)


def describe(config: "Config", engine: "Engine") -> str:
    """Return one line that says what is about to be trained."""
    from lost.cli.render.output import count
    from lost.planning.budget import budget, dense_twin

    own, dense = budget(config), budget(dense_twin(config))
    against = "" if config.projection.kind == "dense" else f" (dense: {count(dense.parameters)})"
    among = f" and {engine.workers.world_size - 1} more" if engine.workers.world_size > 1 else ""
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
