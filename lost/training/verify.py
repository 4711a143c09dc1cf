"""Integrity checks of what `lost` wrote, and of the consistency of a run's files.

What a crash leaves behind and the next start cleans up is no problem, only a remark.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from lost import checkpoint
from lost.checkpoint import CHECKPOINTS, LATEST, MANIFEST, Checkpoint, checkpoints, open_checkpoint
from lost.checkpoint.changes import fixed_differences
from lost.config import Config
from lost.data.dataset import DESCRIPTION, Dataset
from lost.data.mixture import open_dataset
from lost.data.soft_targets.reader import DESCRIPTION as SOFT_TARGETS
from lost.data.soft_targets.reader import SoftTargetSet
from lost.errors import CheckpointError, ConfigError, DataError, UserError
from lost.model.load import load_config
from lost.storage.files import stale_temps
from lost.storage.lock import holder
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.tracking import metrics
from lost.training.run_dir import CONFIG, config_file


@dataclass
class VerifyReport:
    """The result of a check.

    Attributes:
        checked: the checkpoints, or the prepared set or the soft targets, each with its problems.
        inconsistencies: problems between the files of a run; None: not a run.
        weights_only: checkpoints without optimizer state, which training can't resume from.
        remarks: worth knowing, and no problems.
    """

    checked: dict[Path, list[str]] = field(default_factory=dict)
    inconsistencies: list[str] | None = None
    weights_only: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All problems."""
        return list(chain(*self.checked.values(), self.inconsistencies or []))


def verify(path: Path) -> VerifyReport:
    """Check a run, a checkpoint, a prepared set or soft targets; every file is read.

    Raises:
        UserError: it is none of these.
    """
    report = VerifyReport()
    if (path / DESCRIPTION).exists():
        report.checked[path] = list(Dataset(path).problems())
    elif (path / SOFT_TARGETS).exists():
        report.checked[path] = list(SoftTargetSet(path).problems())
    elif (path / MANIFEST).exists():
        _check(path, report)
    elif (path / CONFIG).exists() or checkpoints(path / CHECKPOINTS):
        _check_run(path, report)
    else:
        raise UserError(
            f"{path} holds neither a run, nor a checkpoint, nor a prepared set; expected what `lost` wrote; name one "
            "of these"
        )
    return report


def _check(path: Path, report: VerifyReport) -> Checkpoint | None:
    """Check one checkpoint, and return it if its manifest can be read."""
    try:
        opened = open_checkpoint(path)
        report.checked[path] = list(checkpoint.problems(opened))
    except CheckpointError as error:
        report.checked[path] = [str(error)]
        return None
    if not opened.resumable:
        report.weights_only.append(path)
    return opened


def _check_run(folder: Path, report: VerifyReport) -> None:
    held = checkpoints(folder / CHECKPOINTS)
    opened = [each for each in [_check(path, report) for path in held] if each]
    newest = opened[-1] if opened else None
    config, problems = _configuration(folder, newest)
    if newest:
        problems += [problem for each in opened for problem in _wrong_position(each, newest)]
        problems += metrics.problems(folder / metrics.FILE, newest.config)  # without a checkpoint they are started over
    if not held:
        report.remarks.append(f"{folder} has no checkpoint yet: the next start begins at step 0")
    problems += _latest(folder, [path for path in held if not report.checked[path]], held, report.remarks)
    if config:
        problems += _data(config, opened, report.remarks)
    report.inconsistencies = problems
    if job := holder(folder):
        report.remarks.append(f"{folder} is in use by {job}: what it writes meanwhile may look unfinished here")
    else:
        left = (*stale_temps(folder), *stale_temps(folder / CHECKPOINTS))
        report.remarks += [f"{path} was never finished: the next start removes it" for path in left]


def _configuration(folder: Path, newest: Checkpoint | None) -> tuple[Config | None, list[str]]:
    """Return the run's configuration (the newest checkpoint's if the file is unusable), and the file's problems."""
    path, kept = folder / CONFIG, newest.config if newest else None
    try:
        if not config_file(folder):
            return kept, [f"{path} is missing"]
        config = load_config(path)
    except ConfigError as error:
        return kept, [str(error)]
    if newest and (changed := fixed_differences(newest.config, config, newest.progress.step)):
        return config, [f"{path} is not the configuration of {newest.path}: {'; '.join(changed.values())}"]
    return config, []


def _wrong_position(held: Checkpoint, newest: Checkpoint) -> Iterator[str]:
    """Yield the problems with a checkpoint's configuration, name and counts, compared with its step and its run."""
    step, batch = held.progress.step, held.config.train.batch_size
    if changed := fixed_differences(newest.config, held.config, step):
        yield f"{held.path} has another configuration than {newest.path}: {'; '.join(changed.values())}"
    if held.path.name != checkpoint.checkpoint_path(held.path.parent, step).name:
        yield f"{held.path} is the checkpoint of step {step}, under another's name"
    expected = {"samples": step * batch, "tokens": step * batch * held.config.data.seq_len}
    for key, value in expected.items():
        if (count := getattr(held.progress, key)) != value:
            yield f"{held.path / MANIFEST}: {key} = {count} at step {step}; expected {value}"


def _latest(folder: Path, whole: Sequence[Path], held: Sequence[Path], remarks: list[str]) -> Iterator[str]:
    """Yield the problems with `latest`; a crash between a checkpoint and `latest` leaves it one behind."""
    path = folder / LATEST
    if not os.path.lexists(path):
        if held:
            remarks.append(f"{path} is missing: training on restores it")
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
            remarks.append(f"{text}: training on corrects it")
        else:
            yield text


def _data(config: Config, opened: Sequence[Checkpoint], remarks: list[str]) -> Iterator[str]:
    """Yield the problems with what the run reads, or that the prepared set isn't the one that was trained on."""
    folders = [config.data.path] if config.data.path else [*(config.data.mixture or ())]
    if folders and not _missing(folders, "the data", remarks):
        try:
            dataset = open_dataset(config.data)
            yield from dataset.problems()
        except DataError as error:
            yield str(error)
        else:
            for each in opened:
                if each.progress.data != dataset.fingerprint:
                    yield f"{dataset.path} is not the data that {each.path} was trained on"
    for folder in config.data.also_evaluate.values():
        yield from _read_too(folder, "a further held-out text", Dataset, remarks)
    if (teacher := config.teacher.path) and os.path.exists(Path(teacher) / SOFT_TARGETS):
        yield from _read_too(teacher, "the soft targets", SoftTargetSet, remarks)


def _read_too(
    folder: str, what: str, opens: Callable[[Path], Dataset | SoftTargetSet], remarks: list[str]
) -> Iterator[str]:
    if not _missing([folder], what, remarks):
        try:
            yield from opens(Path(folder)).problems()
        except DataError as error:
            yield str(error)


def _missing(folders: Sequence[str], what: str, remarks: list[str]) -> bool:
    """Return whether a folder is on another machine, and remark on it."""
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        remarks.append(f"{', '.join(missing)}, {what} of the run, is not on this machine and was not checked")
    return bool(missing)
