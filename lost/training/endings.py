"""What is said of a training that can't go on, or needn't: what happened, and what to do."""

from pathlib import Path

from lost.checkpoint import TrainState
from lost.config import Config, EarlyStop
from lost.engine import Engine, backend_module
from lost.errors import DivergedError, OutOfMemoryError
from lost.planning.room import settings_that_take_less, smaller_micro_batch
from lost.training.teacher import Teacher


def diverged(progress: TrainState, engine: Engine, figures: tuple[float, float], saved: Path | None) -> DivergedError:
    """Return what to raise where too many updates in a row were left out.

    Args:
        progress: up to the last step.
        engine: names the gradients that were at fault.
        figures: that step's loss and gradient norm.
        saved: the last checkpoint, if there is one.
    """
    loss, grad_norm = figures
    remedy = "lower optimizer.lr or train.grad_clip, or lengthen schedule.warmup_steps, and train again"
    if saved:
        remedy = (
            f"lower optimizer.lr or train.grad_clip and go on from what was saved, by --branch-from {saved} and "
            "another --out; or lengthen schedule.warmup_steps too and begin anew, in another --out"
        )
    return DivergedError(
        f"the loss is {loss} and the gradient's norm {grad_norm} at step {progress.step}, and "
        f"{engine.guard.state().in_a_row} updates in a row were left out; expected finite numbers, and no spikes. The "
        f"gradients to look at: {', '.join(engine.suspects()[:8])}. Nothing was saved since; {remedy}"
    )


def ended_amid(progress: TrainState, engine: Engine, saved: Path) -> DivergedError:
    """Return what to raise at the end of a run whose last updates were left out: it has not succeeded."""
    rows = [each for each in engine.suspects()[:8] if each]
    named = f" The gradients to look at: {', '.join(rows)}." if rows else ""
    return DivergedError(
        f"the run ended at step {progress.step} while updates were being left out, the last "
        f"{progress.guard.in_a_row} in a row; expected finite numbers, and no spikes.{named} {saved} holds "
        "the weights of the last applied update, and no checkpoint made way for it; lower optimizer.lr or "
        "train.grad_clip, and train again, in another --out"
    )


def stopping_early(progress: TrainState, rule: EarlyStop) -> str:
    """Return why a run ends before its schedule."""
    assert progress.best
    margin = f"more than {rule.min_delta:g} " if rule.min_delta else ""
    best = f"{progress.best.loss:.4f} of step {progress.best.step}" if progress.best.loss is not None else "any"
    return (
        f"stopped early at step {progress.step}: none of the last {progress.best.since} validations was {margin}below "
        f"the best loss, {best} (train.early_stop)"
    )


def out_of_memory(
    error: BaseException, config: Config, engine: Engine, micro_batch: int, teacher: Teacher | None
) -> OutOfMemoryError:
    """Return what to raise where memory ran out; it names the next smaller micro-batch, and other remedies."""
    room, workers = backend_module(engine.backend).capacity(engine.device), engine.workers.world_size
    room -= teacher.memory(config) if teacher else 0
    size = smaller_micro_batch(config, engine.backend, engine.device, room, workers, below=micro_batch)
    remedies = [f"--set train.micro_batch_size={size}, which computes the same"] if size else []
    remedies.append(settings_that_take_less(config))
    return OutOfMemoryError(
        error,
        f"train.micro_batch_size was {micro_batch}: train again with {', or '.join(remedies)}; or end what else uses "
        f"{engine.device}. What was saved before is intact",
    )
