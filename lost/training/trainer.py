"""THE training loop: evaluate, save, stop, step, report. Written once, for every backend."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from lost.checkpoint import Checkpoint, TrainState
from lost.checkpoint.mirror import Mirror
from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import Engine, StepResult
from lost.errors import (
    DivergedError,
    GpuStoppedError,
    GradientMemoryError,
    LostError,
    OutOfMemoryError,
)
from lost.evaluation.perplexity import Evaluation
from lost.storage.failpoints import failpoint
from lost.tracking import Tracker
from lost.training.endings import ended_amid, out_of_memory
from lost.training.profile import Tracing
from lost.training.run import Run, StoppedError, due
from lost.training.signals import Stop
from lost.training.teacher import Teacher
from lost.utils.parsing import finite


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    progress: TrainState
    checkpoint: Path
    loss: float | None  # of the last reported step; None: there was none, or it isn't finite
    validation: Evaluation | None
    further: Mapping[str, Evaluation]  # of the sets under `data.also_evaluate`, made with it
    interrupted: bool
    signal: int  # that interrupted it, if one did
    stopped_early: bool


def train(
    config: Config,
    folder: Path,
    dataset: Dataset,
    engine: Engine,
    tracker: Tracker,
    start: Checkpoint | None = None,
    asked: Stop | None = None,
    adapts: bool = False,
    further: Mapping[str, Dataset] = MappingProxyType({}),
    mirror: Mirror | None = None,
    tracing: Tracing | None = None,
    teacher: Teacher | None = None,
) -> Result:
    """Train from the seed, or resume from a checkpoint, until the schedule ends, `stop_after`, or a request to stop.

    Args:
        config: the run, its vocabulary known.
        folder: the run folder.
        dataset: prepared text.
        engine: a fresh engine; its workers all call this together.
        tracker: shows the run; its own files, and what the configuration names under `tracking`, are added.
        start: a verified checkpoint of the same configuration; None starts from initial values. Only rank 0's counts.
        asked: says whether to stop; looked at between steps, and between the batches of an evaluation.
        adapts: whether the micro-batch may be halved where the first step shows that it doesn't fit.
        further: sets that are evaluated too, by name.
        mirror: of the run's checkpoints; rank 0's.
        tracing: the backend's, where a profile of some steps is wanted.
        teacher: what the run learns from beside the data.

    Raises:
        DivergedError: too many updates in a row were left out.
        GpuStoppedError: macOS ended a computation.
        OutOfMemoryError: the estimate was too low, or another process took what was free.
        StorageError: a checkpoint or log could not be written.
    """
    run = Run(config, folder, dataset, engine, tracker, adapts, further, mirror, tracing, teacher)
    progress = run.begin(start)
    failed = True
    try:
        result = _loop(config, run, progress, engine, asked or Stop())
        failed = False
        return result
    except (LostError, RuntimeError, MemoryError) as error:
        cause = (isinstance(error, GradientMemoryError) and error.__cause__) or error
        short, stopped = OutOfMemoryError.caused(cause), GpuStoppedError.caused(error)
        # A save of a step before is still good. Several workers finish it together, so only if all of them are here.
        if isinstance(error, DivergedError) or engine.workers.world_size == 1:
            run.finish_saving(wait=True)
        if not isinstance(error, LostError) and not short and not stopped:
            raise
        if short:
            raise out_of_memory(cause, run.config, engine, run.micro_batches.size, teacher) from error
        if stopped:
            raise GpuStoppedError(error) from error
        raise
    finally:
        run.close(failed)


def _loop(config: Config, run: Run, progress: TrainState, engine: Engine, asked: Stop) -> Result:
    last = config.last_step
    validation, interrupted = None, False
    further: Mapping[str, Evaluation] = {}
    unreported: StepResult | None = None  # the last step's

    def stop() -> bool:
        return engine.workers.any(asked.requested)

    def ended() -> bool:
        return progress.step >= last or progress.stops_early(config.train.early_stop)

    while True:
        step, ending = progress.step, ended()
        measured, unmeasured = False, step > 0 and progress.validation_loss is None
        if unmeasured and not interrupted and (ending or due(step, config.train.eval_every)):
            try:
                validation, further = run.validate(progress, stop)
                progress = run.judge(replace(progress, validation_loss=finite(validation.loss)))
                measured, ending = True, ended()
            except StoppedError:
                interrupted = True
        now = due(step, config.train.save_every) and not progress.guard.in_a_row
        made_up = measured and step == run.saved_at  # of a checkpoint whose validation was interrupted
        if made_up or (step > run.saved_at and (ending or interrupted or now)):
            if unreported:  # a stop was asked for after the step: how many updates were left out is part of the state
                progress, unreported = run.report(progress, unreported), None
            run.save(progress, ending or interrupted)
        if ending and progress.guard.in_a_row:
            raise ended_amid(progress, engine, run.saved)
        if ending or interrupted:
            early = ending and step < last
            return Result(progress, run.saved, run.loss, validation, further, interrupted, asked.number, early)
        progress, unreported = run.step(progress)
        asked.nothing_to_save = False
        failpoint("step.done")
        run.finish_saving()
        interrupted = stop() and progress.step < last
        # What is about to be saved is looked at first: a run that diverged must not overwrite its good checkpoints.
        saving = progress.step >= last or interrupted or due(progress.step, config.train.save_every)
        saving = saving or (config.train.early_stop is not None and due(progress.step, config.train.eval_every))
        if saving or due(progress.step, config.train.log_every):
            progress, unreported = run.report(progress, unreported), None
        elif due(progress.step, config.train.max_skipped):
            progress = run.check(progress, unreported)
        if due(progress.step, config.train.inspect_every):
            run.inspect(progress)
        if due(progress.step, config.train.noise_scale_every):
            progress = run.measure_noise(progress)
        if due(progress.step, config.train.sample_every) and not interrupted:  # who stops a run may not wait long
            run.sample(progress, asked)
            interrupted = stop() and progress.step < last
