"""`lost train --dry-run`: all checks of a start, without changing anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lost.checkpoint import Checkpoint
from lost.config import Config, DataConfig, ModelConfig, ProjectionConfig
from lost.data.dataset import TRAIN
from lost.data.mixture import training_stream
from lost.engine import backend_module
from lost.errors import StorageError, UserError
from lost.planning.budget import Memory
from lost.planning.disk import DiskRoom, disk_room
from lost.planning.room import check_room
from lost.storage.lock import check_free
from lost.tracking import Tracker
from lost.training.begin.ready import Ready
from lost.training.run_dir import check_run_folder, checkpoints_to_remove, starting_point


@dataclass(frozen=True)
class DryRun:
    """How training would start.

    Attributes:
        devices: each worker's.
        memory: the estimate of one worker's peak.
        room: the memory of its device in bytes.
        tokens: of the training text.
        epochs: passes over it, from the run's first step to its last; of a mixture, over each set.
        start: the checkpoint to resume from; None: step 0.
        removed: checkpoints that the start would remove.
        disk: space for checkpoints.
        steps: optimizer steps to go.
    """

    devices: list[str]
    memory: Memory
    room: int
    tokens: int
    epochs: list[float]
    start: Checkpoint | None
    removed: Sequence[Path]
    disk: DiskRoom
    steps: int


def miniature(config: Config) -> Config:
    """Return a configuration whose engine takes little memory, and can be made wherever the full one can."""
    return Config(
        model=ModelConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8),
        projection=ProjectionConfig(kind="dense"),
        data=DataConfig(seq_len=8),
        train=config.train,
        optimizer=config.optimizer,
        schedule=config.schedule,
    )


def check_start(run: Ready, tracker: Tracker) -> DryRun | None:
    """Check everything that a start needs. Nothing is written.

    Args:
        run: what would start.
        tracker: receives the messages of a start about the run folder.

    Returns:
        How training would start; None on all workers but rank 0.

    Raises:
        UserError: training wouldn't start, on this worker or another.
    """
    workers, outcome = run.workers, None
    devices = workers.all_gather(run.device)
    refusal: UserError | None = None
    try:
        if workers.rank == 0:
            outcome = _check_folder(run, devices, tracker)
    except UserError as error:
        refusal = error
    if workers.any(refusal is not None):
        raise refusal or UserError(
            "another worker can't start, and reports why; expected all of them to start; see its message"
        )
    return outcome


def _check_folder(run: Ready, devices: list[str], tracker: Tracker) -> DryRun:
    """Check the run folder and its disk."""
    config, folder, dataset = run.config, run.folder, run.dataset
    check_free(folder)
    removed = checkpoints_to_remove(folder, run.overwrite) if run.fresh else []
    start = None if run.fresh else starting_point(config, folder, dataset, tracker, run.teaches)
    check_run_folder(folder, start is not None)
    if not start and not run.source:
        for text in run.remarks():
            tracker.message(text)
    step = start.progress.step if start else run.first_step
    disk = disk_room(config, folder, step, removed)
    if disk.shortage:
        raise StorageError(disk.shortage)
    room = backend_module(run.backend).capacity(run.device)
    memory = check_room(config, run.backend, run.device, room, run.workers.world_size, run.teacher_memory, run.begins)
    stream = training_stream(dataset, config.data.seq_len, config.train.seed)
    epochs = stream.epochs(config.last_step * config.train.batch_size)
    ended = start is not None and start.progress.stops_early(config.train.early_stop)
    steps = 0 if ended else max(config.last_step - step, 0)
    return DryRun(devices, memory, room, dataset.split(TRAIN).tokens, epochs, start, removed, disk, steps)
