"""A run folder: where a training starts, what may differ when it goes on, which checkpoint a command means."""

import errno
import os
from pathlib import Path

from lost.checkpoint import MANIFEST, Checkpoint, check_intact, checkpoints, newest_valid, open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import Workers
from lost.distributed.launcher import local_rank
from lost.errors import CheckpointError, ConfigError, DataError, StorageError
from lost.model.load import dump
from lost.storage.files import check_writable, remove_folder, remove_stale, replace_text, storage
from lost.storage.lock import FILE as LOCK
from lost.storage.nofollow import DOCUMENT_BYTES, check_updatable, is_folder, open_read, read_bytes, remove
from lost.tracking import Tracker
from lost.tracking.metrics import FILE as METRICS

CONFIG = "config.yaml"
LATEST = "latest"

# What may change when a run goes on: none of it changes what is computed, but for rounding.
MUTABLE_KEYS = {
    "data.path",
    "data.mixture",  # folders: other data, or other weights, are refused by the fingerprint
    *(f"train.{key}" for key in ("micro_batch_size", "replicas", "compile", "checkpoint_activations")),
    *(f"train.{key}" for key in ("log_every", "eval_every", "eval_tokens")),
    *(
        f"train.{key}"
        for key in ("save_every", "keep_last", "keep_every", "on_save_error", "stop_after", "max_skipped")
    ),
}


def start_or_resume(config: Config, folder: Path, dataset: Dataset, tracker: Tracker) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None for a new run.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
        ConfigError: the folder's run has another configuration; every difference is named.
        DataError: not the data that the folder's run was trained on.
    """
    start = starting_point(config, folder, dataset, tracker)
    if start:
        tracker.message(f"resuming {folder} from step {start.progress.step}")
    elif (folder / CONFIG).exists():
        tracker.message(f"{folder} has no checkpoint yet: starting from step 0")
    return start


def starting_point(config: Config, folder: Path, dataset: Dataset, tracker: Tracker) -> Checkpoint | None:
    """Return the checkpoint that a training would go on from, or None for a new run; nothing is changed.

    Raises:
        CheckpointError: there are checkpoints, and none is whole, or the newest has no optimizer state.
        ConfigError: the folder's run has another configuration; every difference is named.
        DataError: not the data that the folder's run was trained on.
    """
    start, rejected = newest_valid(folder / "checkpoints")
    for reason in rejected:
        tracker.message(f"passed over: {reason}")
    if start is None and rejected:
        raise CheckpointError(
            f"{folder} has checkpoints, but none is whole; restore one, or begin again with --fresh --overwrite"
        )
    if start:
        _check_agreement(start, config, folder, dataset, tracker)
    return start


def reset_run_dir(config: Config, folder: Path, tracker: Tracker, overwrite: bool) -> None:
    """Make a run folder ready for a new run.

    Raises:
        CheckpointError: it holds checkpoints, and overwriting them was not asked for.
    """
    held = checkpoints_to_remove(folder, overwrite)
    if held:
        tracker.message(f"removing {len(held)} checkpoints of an earlier run in {folder}")
    remove(folder / LATEST)  # first: what it names is about to go
    for path in held:
        remove_folder(path)
    for name in (METRICS, CONFIG):
        remove(folder / name)


def checkpoints_to_remove(folder: Path, overwrite: bool) -> list[Path]:
    """Return the checkpoints that a new run would remove; nothing is changed.

    Raises:
        CheckpointError: there are some, and overwriting them was not asked for.
    """
    held = checkpoints(folder / "checkpoints")
    if held and not overwrite:
        raise CheckpointError(
            f"{folder} holds {len(held)} checkpoints up to {held[-1].name}, which --fresh would remove; choose another "
            "--out, or add --overwrite to remove them"
        )
    return held


def check_data(dataset: Dataset, workers: Workers) -> None:
    """Read every shard on each machine, a process some, before anything is trained on a damaged one.

    Raises:
        DataError: a shard is not what was written.
    """
    faults = list(dataset.faults(*local_rank()))
    if workers.any(bool(faults)):
        what = "; ".join(faults) or "another worker found a damaged shard, and says which"
        raise DataError(f"{what}; expected the files as `lost prepare` wrote them; restore them, or prepare them again")


def check_shared_dir(folder: Path, job: str, workers: Workers) -> None:
    """See that every worker which is to read and write a run folder looks at the one that rank 0 has locked.

    Args:
        folder: as this worker's command names it.
        job: what rank 0 wrote into the lock; the others' doesn't count.
        workers: all of them call this.

    Raises:
        StorageError: one of them looks elsewhere.
    """
    job, file = workers.broadcast(job), folder / LOCK
    reads = workers.rank < workers.num_readers
    try:
        seen = not reads or read_bytes(file, DOCUMENT_BYTES) == job.encode()
    except OSError:
        seen = False
    if workers.any(not seen):
        here = "here" if not seen else "on another"
        raise StorageError(
            f"{folder} is not the same folder on all {workers.world_size} workers (found {here}: rank {workers.rank}); "
            "expected one that all machines share; name it with --out"
        )


def config_file(folder: Path) -> Path | None:
    """Return the configuration of a run folder; None: it is no run folder.

    Raises:
        ConfigError: what stands there under its name is no file, or a link.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        return None
    try:
        open_read(path).close()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}; expected the run's configuration") from None
    return path


def check_run_folder(folder: Path, resumes: bool) -> None:
    """See, without writing, that the files of a run can be written in its folder, and read where it goes on.

    Raises:
        StorageError: they can't.
    """
    for place in (folder, folder / "checkpoints"):
        check_writable(place)
    with storage(folder / LOCK):
        check_updatable(folder / LOCK)
    for name in (METRICS, CONFIG, LATEST):  # each new one takes the place of the old one
        with storage(folder / name):
            if is_folder(folder / name):
                raise OSError(errno.EISDIR, "it is a folder; remove it", str(folder / name))
            if resumes and name == METRICS and os.path.lexists(folder / name):
                open_read(folder / name).close()


def write_config(config: Config, folder: Path) -> None:
    """Have a folder hold the resolved configuration, by which it is known as a run: after all that a start needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, folder / "checkpoints"):
        remove_stale(each)
    replace_text(folder / CONFIG, dump(config))


def find_checkpoint(path: Path) -> tuple[Checkpoint, list[str]]:
    """Return the verified checkpoint meant by a checkpoint folder, or the newest whole one of a run folder.

    Returns:
        The checkpoint, and why newer ones of the run were passed over.

    Raises:
        CheckpointError: there is none, or the one named is damaged.
    """
    if (path / MANIFEST).exists() or path.name.startswith("step-"):
        checkpoint = open_checkpoint(path)
        check_intact(checkpoint)
        return checkpoint, []
    found, rejected = newest_valid(path / "checkpoints")
    if found is None:
        why = f": {'; '.join(rejected)}" if rejected else ""
        raise CheckpointError(
            f"{path} holds no usable checkpoint{why}; expected a run folder or a checkpoint written by `lost train`"
        )
    return found, rejected


def tokenizer_place(path: Path) -> Path:
    """Return where the tokenizer meant by a path stands: that of a run is in its newest whole checkpoint."""
    return find_checkpoint(path)[0].path if checkpoints(path / "checkpoints") else path


def _check_agreement(start: Checkpoint, config: Config, folder: Path, dataset: Dataset, tracker: Tracker) -> None:
    changes = differences(start.config, config)
    if refused := fixed_differences(start.config, config):
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(refused)}. Expected the same; choose another "
            "--out, restore the values, or begin again with --fresh --overwrite"
        )
    if changes:
        tracker.message(f"changed since the checkpoint: {'; '.join(changes.values())}")
    if not start.resumable:
        raise CheckpointError(
            f"{start.path} holds no optimizer state (it was written by `lost convert --weights-only`): it can be "
            "evaluated, but training can't go on from it; expected a whole checkpoint; use the one it was made from"
        )
    if start.progress.data != dataset.fingerprint:
        raise DataError(
            f"{dataset.path} is not the data that {folder} was trained on (another tokenizer, other text or other "
            "weights); expected the same; name it with --data, or choose another --out"
        )


def differences(old: Config, new: Config) -> dict[str, str]:
    """Return what two configurations differ in: the key, and a few words with both values."""
    before, after = _flat(old), _flat(new)
    return {
        key: f"{key} = {after.get(key)!r}, was {before.get(key)!r}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def fixed_differences(old: Config, new: Config) -> list[str]:
    """Return those differences that a run may not be resumed with."""
    fixed = {
        key: text
        for key, text in differences(old, new).items()
        if key not in MUTABLE_KEYS and not key.startswith("tracking.")
    }
    return list(fixed.values())


def _flat(config: Config) -> dict[str, object]:
    return {
        f"{section}.{key}": value
        for section, keys in config.model_dump(mode="json").items()
        for key, value in keys.items()
    }
