"""The run folder: what is in it, and where training starts."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from lost.checkpoint import (
    CHECKPOINTS,
    LATEST,
    MANIFEST,
    Checkpoint,
    TrainState,
    checkpoints,
    newest_valid,
    open_checkpoint,
    prune,
    set_latest,
)
from lost.checkpoint.changes import differences, fixed_differences
from lost.checkpoint.store import checkpoint_around
from lost.config import Config
from lost.data.dataset import VALID, Dataset
from lost.data.soft_targets.reader import SoftTargetSet
from lost.distributed.group import Workers
from lost.distributed.launcher import local_rank
from lost.errors import CheckpointError, ConfigError, DataError, StorageError
from lost.model.load import dump
from lost.optim.rates.schedule import level_until
from lost.storage.files import LOCK, check_writable, remove_folder, remove_stale, replace_text, storage
from lost.storage.nofollow import DOCUMENT_BYTES, check_updatable, is_folder, open_read, read_bytes, remove
from lost.tracking import Tracker
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.retold import FOLDER as TRACKING
from lost.training.endings import stopping_early
from lost.utils.wording import counted

CONFIG = "config.yaml"
_OTHERS = {
    "dataset.json": "a prepared set",
    MANIFEST: "a checkpoint",
    "config.json": "an exported model",
    "results.jsonl": "a sweep's folder",
}


def start_or_resume(
    config: Config, folder: Path, dataset: Dataset, tracker: Tracker, teacher: str | None = None
) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for a new run.

    Raises:
        CheckpointError: there are checkpoints, and none is intact.
        ConfigError: the folder's run has another configuration; the message names every difference.
        DataError: the folder's run was trained on other data.
    """
    start = starting_point(config, folder, dataset, tracker, teacher)
    if start:
        tracker.message(_going_on(start.progress, config, folder))
        with storage(folder):  # what a crash in the midst of a save left undone
            set_latest(start.path)
            prune(start.path.parent, config.train.keep_last, config.train.keep_every, start.progress.step)
    elif (folder / CONFIG).exists():
        tracker.message(f"{folder} has no checkpoint yet: starting from step 0")
    return start


def _going_on(progress: TrainState, config: Config, folder: Path) -> str:
    """Return what is said of a run that has a checkpoint."""
    step, rule = progress.step, config.train.early_stop
    if rule and progress.stops_early(rule):
        reason = stopping_early(progress, rule)
        return f"{folder} {reason}; raise train.early_stop.patience, or set train.early_stop=null, to train on"
    if step < config.last_step:
        return f"resuming {folder} from step {step}"
    if step < config.schedule.total_steps:
        return f"{folder} has come to train.stop_after = {config.train.stop_after}; raise it to train on"
    if level_until(config.schedule) == config.schedule.total_steps:  # a longer run begins like this one
        return f"{folder} is complete, at step {step}; raise schedule.steps to train on"
    return (
        f"{folder} is complete, at step {step}; to train its model further, on other data too, begin another run with "
        "--branch-from it"
    )


def starting_point(
    config: Config, folder: Path, dataset: Dataset, tracker: Tracker, teacher: str | None = None
) -> Checkpoint | None:
    """Return the checkpoint that training would resume from, or None for a new run; nothing is changed.

    Args:
        config: the run.
        folder: its folder.
        dataset: its data.
        tracker: told what is skipped, and what has changed.
        teacher: the identity of what it learns from beside the data; None: nothing.

    Raises:
        CheckpointError: there are checkpoints, and none is intact, or the newest has no optimizer state.
        ConfigError: the folder's run has another configuration or teacher; the message names every difference.
        DataError: the folder's run was trained on other data.
    """
    start, rejected = newest_valid(folder / CHECKPOINTS)
    for reason in rejected:
        tracker.message(f"skipped: {reason}")
    if start is None and rejected:
        raise CheckpointError(
            f"{folder} has checkpoints, but none is intact; restore one, or start over with --fresh --overwrite"
        )
    if start:
        _check_agreement(start, config, folder, dataset, tracker)
        _check_teacher(start.progress.teacher, teacher, config, folder)
    return start


def last_config(folder: Path) -> Config | None:
    """Return the configuration that a run was last trained with; None: no checkpoint says so."""
    for path in reversed(checkpoints(folder / CHECKPOINTS)):
        try:
            return open_checkpoint(path).config
        except CheckpointError:
            continue  # reported when the run is resumed
    return None


def reset_run_dir(folder: Path, tracker: Tracker, overwrite: bool) -> None:
    """Prepare a run folder for a new run.

    Raises:
        CheckpointError: it holds checkpoints, and --overwrite wasn't given.
    """
    held = checkpoints_to_remove(folder, overwrite)
    if held:
        tracker.message(f"removing {counted(len(held), 'checkpoint')} of an earlier run in {folder}")
    remove(folder / LATEST)  # first: the checkpoint that it names is about to be removed
    for path in held:
        remove_folder(path)
    for name in (METRICS, CONFIG, TRACKING):
        remove(folder / name)


def checkpoints_to_remove(folder: Path, overwrite: bool) -> list[Path]:
    """Return the checkpoints that a new run would remove; nothing is changed.

    Raises:
        CheckpointError: there are some, and --overwrite wasn't given.
    """
    held = checkpoints(folder / CHECKPOINTS)
    if held and not overwrite:
        raise CheckpointError(
            f"{folder} holds {counted(len(held), 'checkpoint')} up to {held[-1].name}, which --fresh would "
            "remove; choose another --out, or add --overwrite to remove them"
        )
    return held


def check_data(dataset: Dataset, further: Iterable[Dataset | SoftTargetSet], workers: Workers) -> None:
    """Read every shard, shared among the processes of each machine, so that nothing is trained on a damaged one.

    Of further sets those of the validation text, which alone is used; of soft targets all.

    Raises:
        DataError: a shard isn't as it was written.
    """
    damaged = list(dataset.problems(*local_rank()))
    for each in further:
        damaged += each.problems(*local_rank(), VALID)
    if workers.any(bool(damaged)):
        what = "; ".join(damaged) or "another worker found a damaged shard, and reports which"
        raise DataError(f"{what}; expected the files as `lost prepare` wrote them; restore them, or prepare them again")


def check_shared_dir(folder: Path, job: str, workers: Workers) -> None:
    """Check that every worker that reads and writes a run folder sees the one that rank 0 has locked.

    Args:
        folder: in this worker's command.
        job: what rank 0 wrote into the lock; ignored on other ranks.
        workers: all of them call this.

    Raises:
        StorageError: a worker sees another folder.
    """
    job, file = workers.broadcast(job), folder / LOCK
    reads = workers.rank < workers.num_readers
    try:
        seen = not reads or read_bytes(file, DOCUMENT_BYTES) == job.encode()
    except OSError:
        seen = False
    if workers.any(not seen):
        differing = "this one" if not seen else "another"
        raise StorageError(
            f"{folder} is not the same folder on all {workers.world_size} workers ({differing} differs; this is rank "
            f"{workers.rank}); expected one that all machines share; name it with --out"
        )


def config_file(folder: Path) -> Path | None:
    """Return the path of a run folder's configuration; None: it isn't a run folder.

    Raises:
        ConfigError: something else has its name, such as a folder or a link.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        return None
    try:
        open_read(path).close()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}; expected the run's configuration") from None
    return path


def check_place(folder: Path) -> None:
    """Check that nothing but a run is in the folder of one.

    Raises:
        ConfigError: something else is.
    """
    held = next((name for name in _OTHERS if os.path.lexists(folder / name)), None)
    around = checkpoint_around(folder)
    by_hand = os.path.lexists(folder / CONFIG) and not any(
        os.path.lexists(folder / name) for name in (LOCK, METRICS, CHECKPOINTS, "log.txt")
    )
    if held or around or by_hand:
        what = f"is {_OTHERS[held]}" if held else f"lies in the checkpoint {around}" if around else ""
        what = what or f"holds a {CONFIG} that no run wrote, and a run would replace"
        raise ConfigError(f"{folder} {what}; expected a new folder, or a run's; choose another --out")


def check_run_folder(folder: Path, resumes: bool) -> None:
    """Check, without writing, that the files of a run can be written to its folder, and read if it is resumed.

    Raises:
        StorageError: they can't.
    """
    for each in (folder, folder / CHECKPOINTS):
        check_writable(each)
    with storage(folder / LOCK):
        check_updatable(folder / LOCK)
    for name in (METRICS, CONFIG, LATEST):  # each is replaced by a new file
        with storage(folder / name):
            if is_folder(folder / name):
                raise OSError(errno.EISDIR, "it is a folder; remove it", str(folder / name))
            if resumes and name == METRICS and os.path.lexists(folder / name):
                open_read(folder / name).close()


def write_config(config: Config, folder: Path) -> None:
    """Write the resolved configuration, which marks the folder as a run; called once the run can start."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, folder / CHECKPOINTS):
        remove_stale(each)
    replace_text(folder / CONFIG, dump(config))


def _check_agreement(start: Checkpoint, config: Config, folder: Path, dataset: Dataset, tracker: Tracker) -> None:
    changes = differences(start.config, config)
    if refused := fixed_differences(start.config, config, start.progress.step):
        past = ""
        if any(key.startswith("schedule.") for key in refused):
            past = (
                f", or a schedule with the rates of the {start.progress.step} steps so far (constant has them at any "
                "step, wsd before its decay, with the same warm-up in steps)"
            )
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(refused.values())}. Expected the same{past}; "
            "restore the values, choose another --out (with --branch-from this run to go on under another schedule, or "
            "on other data), or start over with --fresh --overwrite"
        )
    if changes:
        tracker.message(f"changed since the checkpoint: {'; '.join(changes.values())}")
    if not start.resumable:
        raise CheckpointError(
            f"{start.path} holds no optimizer state (it was written by `lost convert --weights-only`): it can be "
            "evaluated, but training can't resume from it; expected a complete checkpoint; use the original one"
        )
    if start.progress.data != dataset.fingerprint:
        raise DataError(
            f"{dataset.path} is not the data that {folder} was trained on (another tokenizer, other text or other "
            "proportions); expected the same; name it with --data, or choose another --out"
        )


def _check_teacher(before: str | None, now: str | None, config: Config, folder: Path) -> None:
    if before == now:
        return
    learned = "from a teacher with other weights, or other soft targets" if before else "without a teacher"
    remedy = "name the same, wherever it stands now" if before else "leave it out"
    raise ConfigError(
        f"teacher.path = {config.teacher.path}: the run in {folder} has learned {learned} so far; expected that to "
        f"stay; {remedy}, choose another --out, or start over with --fresh --overwrite"
    )
