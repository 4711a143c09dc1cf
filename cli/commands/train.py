"""`lost train`: start or resume a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson, Assignments, Backend, Device, Overrides, Threads, model_path, path_option

if TYPE_CHECKING:
    from lost.config import Config
    from lost.data.dataset import Dataset
    from lost.engine import Engine
    from lost.training.trainer import Result


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|RUN", help="A YAML file, a shipped name, or a run folder to resume.", show_default=False
        ),
    ] = None,
    assignments: Assignments = [],
    data: Annotated[Path | None, path_option("Folder made by `lost prepare`.")] = None,
    out: Annotated[Path | None, path_option("Run folder; default runs/NAME.")] = None,
    init_from: Annotated[
        Path | None,
        path_option(
            "Start a new run with the weights of a run, a checkpoint, an export, a Hugging Face folder, or a model of "
            "the hub, hf://owner/name[@REVISION].",
            parser=model_path,
        ),
    ] = None,
    branch_from: Annotated[
        Path | None,
        path_option(
            "RUN[@STEP]: go on from a run's checkpoint in a new folder, under another schedule, on other data."
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Copy checkpoints there too, such as s3://bucket/run; `lost fetch` brings one."
        ),
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    overrides: Overrides = [],
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over at step 0 instead of resuming.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --fresh: remove existing checkpoints.")] = False,
    wired_gib: Annotated[
        float | None, typer.Option(help="On a Mac: memory that MLX may keep resident.", min=0, max=2048)
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace steps 4 to 6 of this start, into profile/ of the run folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything that a start needs, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start or resume a run.

    A run resumes automatically if its folder holds checkpoints of the same configuration. Ctrl-C saves and exits with
    code 130, SIGTERM with 143; run the same command again to resume. Code 75: another job has the folder; try later.

    With --init-from, a new run starts at step 0 with other weights: it has its own data, schedule and optimizer state.
    Keys of model and projection that CONFIG leaves out follow the weights; without CONFIG everything but the data does.

    With --branch-from, a new run goes on from a step of another, with its weights, moments and place in the data. What
    isn't given follows that run; schedule and rates may change, and schedule.steps counts from its start. On other data
    weights and moments go on, and data, steps and schedule begin anew.

    With --dry-run, the configuration, the data (every byte), the device, memory, the run folder and the disk space for
    checkpoints are checked: exit code 0 if the run would start, 2 if not. Nothing is trained or written.
    """
    from lost.cli.render.dry_run import answer_dry_run
    from lost.cli.render.output import answer, note
    from lost.cli.render.progress import TrainingScreen
    from lost.training.begin.dry_run import check_start, miniature
    from lost.training.begin.ready import Request, ready
    from lost.training.begin.start import start

    if config and "=" in config and not Path(config).exists():  # where the weights of another run say what is trained
        assignments = [config, *assignments]
        config = None
    overrides = [*overrides, *assignments]
    asked = Request(
        config,
        data,
        out,
        init_from,
        branch_from,
        overrides,
        backend,
        device,
        wired_gib,
        fresh,
        overwrite,
        mirror,
        profile,
    )
    run = ready(asked, note, measures=not dry_run)
    screen = TrainingScreen(run.config.last_step, as_json, quiet=run.workers.rank > 0)
    engine = run.engine(miniature(run.config) if dry_run else None)
    run.check()  # before anything in the folder is touched
    if dry_run:
        if outcome := check_start(run, screen):
            answer_dry_run(outcome, run, as_json)
        run.workers.close()
        return
    result = start(run, engine, screen, screen.live, describe(run.config, engine, run.dataset), ending)
    validation = result.validation
    value = {
        "run": str(run.folder),
        "step": result.progress.step,
        "tokens": result.progress.tokens,
        "seconds": result.progress.seconds,
        "checkpoint": str(result.checkpoint),
        "loss": result.loss,
        "validation_loss": validation.loss if validation else None,
        "perplexity": validation.perplexity if validation else None,
        "bits_per_byte": validation.bits_per_byte if validation else None,
        "validation_tokens": validation.tokens if validation else None,
        "also_evaluated": {name: each.figures() for name, each in result.further.items()},
        "interrupted": result.interrupted,
        "stopped_early": result.stopped_early,
    }
    if as_json and run.workers.rank == 0:  # as text it was shown above, and lost output ends no run
        answer(True, value, [])
    if result.interrupted:
        raise typer.Exit(128 + result.signal)


def describe(config: "Config", engine: "Engine", dataset: "Dataset") -> str:
    """Return a sentence that describes what is about to be trained: the model, where, a step, all of them."""
    from lost.cli.render.output import count
    from lost.data.mixture import training_stream
    from lost.distributed.group import local_batch_size
    from lost.model.adapted import dense_twin
    from lost.planning.budget import budget
    from lost.utils.wording import counted

    own, dense = budget(config), budget(dense_twin(config))
    against = "" if config.projection.kind == "dense" else f" (dense: {count(dense.parameters)})"
    if own.trained < own.parameters:
        against = f", {count(own.trained)} of them trained,"
    local, at_once = local_batch_size(config, engine.workers.world_size)
    times = -(-local // at_once)
    parts = f", {counted(at_once, 'sequence')} at once, {times} times" if times > 1 else ""
    steps, samples = config.schedule.total_steps, config.schedule.total_steps * config.train.batch_size
    tokens = samples * config.data.seq_len
    epochs = training_stream(dataset, config.data.seq_len, config.train.seed).epochs(samples)
    whole = f"{tokens / own.parameters:.3g} a parameter, {' and '.join(f'{each:.3g}' for each in epochs)} epochs"
    among = f" and {engine.workers.world_size - 1} more" if engine.workers.world_size > 1 else ""
    return (
        f"{config.projection.kind} model of {count(own.parameters)} parameters{against} on {engine.backend} "
        f"{engine.device}{among}, {config.train.compute_dtype}, "
        f"{config.train.batch_size} x {config.data.seq_len} tokens a step{parts}; "
        f"{counted(steps, 'step')}: {count(tokens)} tokens, {whole}"
    )


def ending(config: "Config", engine: "Engine", result: "Result") -> str:
    """Return one line that describes how training ended."""
    from shlex import quote

    from lost.utils.wording import sized

    verb = "stopped" if result.interrupted else "done"
    if result.stopped_early:
        verb = "stopped early"
    elif result.progress.step < config.schedule.total_steps and not result.interrupted:
        verb = f"stopped by train.stop_after = {config.train.stop_after}"
    memory = engine.memory()
    # What a CPU's backend doesn't record is the system's figure: beside it, the estimate of arrays alone looks wrong.
    what = "the whole process" if engine.device == "cpu" and memory.keys() == {"memory_bytes"} else "arrays"
    peak = f"peak memory: {sized(memory['memory_bytes'])}, {what}"
    again = f"; `lost train {quote(str(result.checkpoint.parents[1]))}` resumes" if result.interrupted else ""
    return f"{verb} at step {result.progress.step}: {result.checkpoint} ({peak}){again}"
