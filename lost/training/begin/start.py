"""Start of a run that is ready: its folder's lock, what it resumes from, and the training to its end."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from lost.checkpoint import CHECKPOINTS, Checkpoint
from lost.checkpoint.mirror import Mirror
from lost.config import Config
from lost.engine import Engine
from lost.planning.disk import disk_room
from lost.storage.lock import locked
from lost.tracking import Tracker, Trackers
from lost.tracking.log import logged
from lost.training.begin.ready import Ready
from lost.training.origin.branch import keeps_place
from lost.training.origin.calibration import measure_of
from lost.training.origin.init_from import begin_with
from lost.training.run_dir import (
    check_shared_dir,
    reset_run_dir,
    start_or_resume,
    write_config,
)
from lost.training.signals import stop_on_signal
from lost.training.trainer import Result, train


def start(
    run: Ready,
    engine: Engine,
    screen: Tracker,
    live: Callable[[], AbstractContextManager[object]],
    beginning_with: str,
    ended: Callable[[Config, Engine, Result], str],
) -> Result:
    """Start or resume a run that was checked.

    Args:
        run: what `ready` returned.
        engine: of its configuration.
        screen: shows the run.
        live: entered while the run is shown.
        beginning_with: the sentence that says what is trained.
        ended: returns the sentence that says how it ended.

    Raises:
        LostError: it ended otherwise than asked.
    """
    workers, first = run.workers, run.workers.rank == 0
    with (
        stop_on_signal(screen.message, workers.sigterm_asks) as asked,
        locked(run.folder, screen.message) if first else nullcontext("") as job,
    ):
        check_shared_dir(run.folder, job, workers)
        with logged(run.folder, workers) as log, live():
            tracker = Trackers(screen, log)
            point = _starting_point(run, tracker) if first else None  # rank 0 decides
            tracker.message(beginning_with)
            if run.teacher:
                tracker.message(run.teacher.sentence(run.config))
            adapts = run.written.train.micro_batch_size == "auto"
            mirror = Mirror(run.folder / CHECKPOINTS, run.remote) if first and run.remote else None
            result = train(
                run.config, run.folder, run.dataset, engine, tracker, point, asked, adapts, run.further, mirror,
                run.tracing, run.teacher,
            )  # fmt: skip
            tracker.message(ended(run.config, engine, result))
            workers.close()
            if mirror:  # for which the others needn't wait
                asked.finished = True
                screen.phase("mirroring")
                mirror.wait()
                for text in mirror.said():
                    tracker.message(text)
    return result


def _starting_point(run: Ready, tracker: Tracker) -> Checkpoint | None:
    """Make the run folder ready, and return the checkpoint to resume from; None: initial weights."""
    point = None
    if run.fresh:
        reset_run_dir(run.folder, tracker, run.overwrite)
    else:
        point = start_or_resume(run.config, run.folder, run.dataset, tracker, run.teaches)
    if run.source and not point:
        for text in (*run.source.remarks, _how_it_begins(run)):
            tracker.message(text)
        measure = measure_of(run.source, run.config, run.dataset, run.backend, run.device)
        point = begin_with(run.source, run.config, run.folder, run.dataset, run.branches, measure, run.teaches)
    write_config(run.written, run.folder)
    if not point:
        for text in run.remarks():
            tracker.message(text)
    if short := disk_room(run.config, run.folder, point.progress.step if point else 0).shortage:
        tracker.message(short)
    return point


def _how_it_begins(run: Ready) -> str:
    """Return what is said of a run that begins with the weights of another."""
    assert run.source
    if not run.branches:
        return f"beginning with the weights of {run.source.path}"
    if keeps_place(run.source, run.dataset):
        return f"going on from step {run.first_step} of {run.source.path}"
    shown = "" if run.further else " (data.also_evaluate shows what it forgets of the text before)"
    how = f"going on with weights and moments of {run.source.path} on other data"
    return f"{how}: steps, schedule and data begin anew{shown}"
