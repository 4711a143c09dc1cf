"""Whether what `lost` wrote is whole, and whether the files of a run agree with each other.

What a crash leaves, and the next start mends, is no fault: it is remarked on.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lost import checkpoint
from lost.checkpoint import MANIFEST, Checkpoint, checkpoints, open_checkpoint
from lost.config import Config
from lost.data.dataset import DESCRIPTION, Dataset
from lost.data.mixture import open_dataset
from lost.errors import CheckpointError, ConfigError, DataError, UserError
from lost.model.load import load_config
from lost.storage.files import stale_temps
from lost.storage.lock import holder
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.tracking import metrics
from lost.training.run_dir import CONFIG, LATEST, config_file, fixed_differences


@dataclass
class Findings:
    """What was found.

    Attributes:
        checked: the checkpoints, or the prepared set, each with what is wrong with it.
        disagreements: what is wrong between the files of a run; None: not a run.
        weights_only: checkpoints that training can't go on from.
        remarks: what is no fault, and good to know.
    """

    checked: dict[Path, list[str]] = field(default_factory=dict)
    disagreements: list[str] | None = None
    weights_only: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that is wrong."""
        return [fault for each in (*self.checked.values(), self.disagreements or []) for fault in each]


def verify(path: Path) -> Findings:
    """Check a run, a checkpoint or a prepared set, all of its files read.

    Raises:
        UserError: it is none of these.
    """
    found = Findings()
    if (path / DESCRIPTION).exists():
        found.checked[path] = list(Dataset(path).faults())
    elif (path / MANIFEST).exists():
        _check(path, found)
    elif (path / CONFIG).exists() or checkpoints(path / "checkpoints"):
        _check_run(path, found)
    else:
        raise UserError(
            f"{path} holds neither a run, nor a checkpoint, nor a prepared set; expected what `lost` wrote; name one "
            "of these"
        )
    return found


def _check(path: Path, found: Findings) -> Checkpoint | None:
    """Check one checkpoint, and return it if its manifest can be read."""
    try:
        opened = open_checkpoint(path)
        found.checked[path] = list(checkpoint.problems(opened))
    except CheckpointError as error:
        found.checked[path] = [str(error)]
        return None
    if not opened.resumable:
        found.weights_only.append(path)
    return opened


def _check_run(folder: Path, found: Findings) -> None:
    held = checkpoints(folder / "checkpoints")
    opened = [each for each in [_check(path, found) for path in held] if each]
    newest = opened[-1] if opened else None
    config, faults = _configuration(folder, newest)
    if newest:
        faults += [fault for each in opened for fault in _place(each, newest)]
        faults += metrics.faults(folder / metrics.FILE, newest.config)  # without a checkpoint they are begun anew
    if not held:
        found.remarks.append(f"{folder} has no checkpoint yet: the next start begins at step 0")
    faults += _latest(folder, [path for path in held if not found.checked[path]], held, found.remarks)
    if config:
        faults += _data(config, opened, found.remarks)
    found.disagreements = faults
    if job := holder(folder):
        found.remarks.append(f"{folder} is in use by {job}: what it writes meanwhile may look unfinished here")
    else:
        left = (*stale_temps(folder), *stale_temps(folder / "checkpoints"))
        found.remarks += [f"{path} was never finished: the next start removes it" for path in left]


def _configuration(folder: Path, newest: Checkpoint | None) -> tuple[Config | None, list[str]]:
    """Return the run's configuration, the newest checkpoint's where the file is no use, and what is wrong with it."""
    path, kept = folder / CONFIG, newest.config if newest else None
    try:
        if not config_file(folder):
            return kept, [f"{path} is missing"]
        config = load_config(path)
    except ConfigError as error:
        return kept, [str(error)]
    if newest and (fixed := fixed_differences(newest.config, config)):
        return config, [f"{path} is not the configuration of {newest.path}: {'; '.join(fixed)}"]
    return config, []


def _place(found: Checkpoint, newest: Checkpoint) -> Iterator[str]:
    """Yield what is wrong between a checkpoint's step, its name and its counts, and the run that it stands in."""
    step, batch = found.progress.step, found.config.train.batch_size
    if fixed := fixed_differences(newest.config, found.config):
        yield f"{found.path} is of another configuration than {newest.path}: {'; '.join(fixed)}"
    if found.path.name != checkpoint.checkpoint_path(found.path.parent, step).name:
        yield f"{found.path} is the checkpoint of step {step}, under another's name"
    meant = {"samples": step * batch, "tokens": step * batch * found.config.data.seq_len}
    for key, value in meant.items():
        if (count := getattr(found.progress, key)) != value:
            yield f"{found.path / MANIFEST}: {key} = {count} at step {step}; expected {value}"


def _latest(folder: Path, whole: Sequence[Path], held: Sequence[Path], remarks: list[str]) -> Iterator[str]:
    """Yield what is wrong with `latest`; a crash between a checkpoint and `latest` leaves it one behind."""
    path = folder / LATEST
    if not os.path.lexists(path):
        if held:
            remarks.append(f"{path} is missing: the next checkpoint brings it back")
        return
    try:
        named = read_bytes(path, DOCUMENT_BYTES).decode("utf-8", "replace").strip()
    except OSError as error:
        yield f"{path} can't be read: {error.strerror}"
        return
    if folder / named not in held:
        yield f"{path} names {named!r}, which is no checkpoint of this run"
    elif whole and folder / named < whole[-1]:
        text = f"{path} names {named}, and {whole[-1].name} is newer"
        if folder / named in whole[-2:]:
            remarks.append(f"{text}: the next checkpoint puts it right")
        else:
            yield text


def _data(config: Config, opened: Sequence[Checkpoint], remarks: list[str]) -> Iterator[str]:
    """Yield what is wrong with the prepared set, and whether it is the one that was trained on."""
    folders = [config.data.path] if config.data.path else [*(config.data.mixture or ())]
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        remarks.append(f"{', '.join(missing)}, the data of the run, is not on this machine: it was not checked")
    if missing or not folders:
        return
    try:
        dataset = open_dataset(config.data)
        yield from dataset.faults()
    except DataError as error:
        yield str(error)
        return
    for each in opened:
        if each.progress.data != dataset.fingerprint:
            yield f"{dataset.path} is not the data that {each.path} was trained on"
