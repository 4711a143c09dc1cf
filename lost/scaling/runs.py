"""Finished runs as a law sees them: size, tokens, losses, and what a token cost."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost.checkpoint import CHECKPOINTS, checkpoints, open_checkpoint
from lost.checkpoint.state import Origin, TrainState
from lost.config import Config
from lost.errors import CheckpointError, UserError
from lost.model.adapted import dense_twin
from lost.model.load import load_config
from lost.optim.rates.schedule import KINDS, level_until
from lost.planning.budget import budget
from lost.storage.nofollow import resolved
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import is_number, read_rows
from lost.training.run_dir import CONFIG
from lost.utils.wording import did_you_mean_path

_NAMED = 3  # of what is left out by one line
_EARLY = 10  # the first tenth of a run tells more of its start than of its tokens and rates


@dataclass(frozen=True)
class TrainedRun:
    """A run whose losses can be fitted.

    Attributes:
        folder: the run's.
        config: the run's.
        data: fingerprint of its prepared set.
        size: trained parameters without embedding and head.
        dense_size: those of its dense twin.
        flops: of a token, forward and backward.
        seconds: of a token, by the median of its reported steps.
        losses: of its validations, nats a token, by step.
        teacher: the identity of what it learns from beside its data; None: nothing.
        origin: of the weights that it began with; None: they were drawn.
    """

    folder: Path
    config: Config
    data: str
    size: int
    dense_size: int
    flops: int
    seconds: float
    losses: dict[int, float]
    teacher: str | None = None
    origin: Origin | None = None

    @property
    def kind(self) -> str:
        """The kind of its projections."""
        return self.config.projection.kind

    def tokens(self, step: int) -> int:
        """Return the tokens that it has read after a step."""
        return step * self.config.tokens_per_step

    def at_end(self) -> dict[int, float]:
        """Return the loss at the schedule's end, by its step; nothing: it hasn't come there."""
        last = self.config.schedule.total_steps
        return {last: self.losses[last]} if last in self.losses else {}

    @property
    def is_finished(self) -> bool:
        """Whether it came to the end of its schedule, or to the step before that at which it was to stop.

        One that diverged hasn't, nor has one that `train.early_stop` ended: where these end, their losses have decided.
        """
        return max(self.losses) >= self.config.last_step

    @property
    def is_level(self) -> bool:
        """Whether its rate stays at the peak after the warm-up: a longer run begins like a shorter one."""
        return KINDS[self.config.schedule.name].falls_after is not None

    @property
    def decays(self) -> bool:
        """Whether its rate falls at all."""
        return level_until(self.config.schedule) < self.config.schedule.total_steps

    def at_peak(self) -> dict[int, float]:
        """Return the losses, by step, up to which the rate has stayed at its peak; without the run's beginning."""
        last = level_until(self.config.schedule)
        return {step: loss for step, loss in self.losses.items() if self.early < step <= last}

    @property
    def early(self) -> int:
        """The step up to which it follows no law: its warm-up's, or a tenth of its steps."""
        schedule = self.config.schedule
        return max(schedule.warmup_steps, schedule.total_steps // _EARLY)


def read_runs(paths: Sequence[Path]) -> tuple[list[TrainedRun], list[str]]:
    """Return the runs in folders, and which are left out and why.

    Args:
        paths: run folders, or folders that hold some, such as a sweep's; and what is beside them, such as their logs.

    Raises:
        UserError: a path doesn't exist, or none holds a run.
    """
    found = {path: run_folders(path) for path in paths}
    others = [path for path, folders in found.items() if not folders]
    if len(others) == len(found):
        raise UserError(f"{others[0]} holds no run; expected what `lost train` wrote, or a folder of such")
    runs, left_out = [], []
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        left_out.append(f"left out, no runs: {', '.join(map(str, others[:_NAMED]))}{more}")
    for folder in each_once(each for folders in found.values() for each in folders):
        try:
            runs.append(_read(folder))
        except (OSError, UserError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            left_out.append(f"left out: {folder}: {reason}")
    return runs, left_out


def run_folders(path: Path) -> list[Path]:
    """Return a run folder itself, or those inside a folder, or inside its own folders.

    Raises:
        UserError: there is no such path.
    """
    if not path.exists():
        hint = did_you_mean_path(path)
        raise UserError(f"{path} holds no run; {hint}expected what `lost train` wrote, or a folder of such")
    if (path / METRICS).is_file():
        return [path]
    return [each.parent for each in sorted({*path.glob(f"*/{METRICS}"), *path.glob(f"*/*/{METRICS}")})]


def each_once(folders: Iterable[Path]) -> list[Path]:
    """Return folders in order, without those that are an earlier one by another name, as through a link."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(resolved(folder), folder)
    return list(found.values())


def _read(folder: Path) -> TrainedRun:
    """Read one run.

    Raises:
        OSError: its metrics.jsonl can't be read.
        UserError: it can't be told what it is, or it has no validation.
    """
    config = load_config(folder / CONFIG)
    losses, speeds = {}, []
    for row in read_rows(folder / METRICS):
        if (loss := _positive(row.get("validation_loss"))) is not None:
            losses[row["step"]] = loss
        if (speed := _positive(row.get("tokens_per_second"))) is not None:
            speeds.append(speed)
    if not losses or not speeds:
        raise UserError("it has no validation yet")
    own, dense, progress = budget(config), budget(dense_twin(config)), _progress(folder)
    return TrainedRun(
        folder,
        config,
        progress.data,
        own.without_embeddings,
        dense.without_embeddings,
        own.flops_per_token,
        1 / statistics.median(speeds),
        losses,
        progress.teacher,
        progress.origin,
    )


def _progress(folder: Path) -> TrainState:
    """Return what the checkpoints of a run know of it: its data, its teacher, what it began with.

    Raises:
        CheckpointError: none can be read; of several the newest one's.
    """
    error = CheckpointError("it has no checkpoint, which says what text it was trained on")
    for path in checkpoints(folder / CHECKPOINTS):
        try:
            return open_checkpoint(path).progress
        except CheckpointError as damaged:
            error = damaged
    raise error


def _positive(value: Any) -> float | None:
    return float(value) if is_number(value) and value > 0 else None
