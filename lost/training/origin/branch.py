"""`lost train --branch-from RUN[@STEP]`: a new run that goes on from a checkpoint of another, under another schedule.

Weights, moments and the place in the data come along, so that with the schedule kept it is the same run to the bit. On
other data (continual pre-training) weights and moments do: data, steps and schedule begin anew.
"""

from pathlib import Path

from lost.checkpoint import checkpoint_named, open_checkpoint, run_and_step
from lost.checkpoint.changes import MUTABLE_KEYS, differences
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import CheckpointError, ConfigError, DataError
from lost.interop.source import Source, open_source
from lost.tokenizer import same_ids

# Beside what may change in any run: rates, and how gradients are bounded, are set anew.
_FREE = ("tracking.", "schedule.", "optimizer.", "teacher.", "train.grad_clip", "train.skip_spikes", "train.z_loss")


def open_branch(named: Path) -> Source:
    """Open the checkpoint that RUN[@STEP] names.

    Raises:
        CheckpointError: there is none at this step, none that is intact, one of another step, or one without moments.
    """
    try:
        path = checkpoint_named(named)
    except CheckpointError as error:
        raise CheckpointError(f"--branch-from {error}") from None
    source = open_source(path)
    if source.progress is None or not open_checkpoint(source.path).resumable:
        raise CheckpointError(
            f"--branch-from {named}: it holds weights, and no optimizer state; expected a checkpoint as training "
            "writes it; name one, or begin with the weights alone with --init-from"
        )
    step = run_and_step(named)[1]
    if step not in (None, source.progress.step):
        raise CheckpointError(
            f"--branch-from {named}: {source.path} is the checkpoint of step {source.progress.step}; expected its run, "
            f"which may have others; name that, or leave @{step} out"
        )
    return source


def keeps_place(source: Source, dataset: Dataset) -> bool:
    """Whether a branch goes on at its source's place in the data, which is the same; else it begins at step 0."""
    return source.progress is not None and source.progress.data == dataset.fingerprint


def check_branch(source: Source, config: Config, dataset: Dataset) -> None:
    """Check that a run can go on as another one.

    Raises:
        ConfigError: they differ in more than may change, or the schedule has ended before.
        DataError: the data isn't what it was.
    """
    assert source.progress
    step = source.progress.step
    refused = [
        text
        for key, text in differences(source.config, config).items()
        if key == "optimizer.name" or (key not in MUTABLE_KEYS and not key.startswith(_FREE))
    ]
    if refused:
        raise ConfigError(
            f"a branch of {source.path} can't have another {'; '.join(refused)}. Expected the same but for schedule, "
            "rates, train.grad_clip, skip_spikes, z_loss, and what may change in any run; restore the values, or begin "
            "with its weights with --init-from"
        )
    if not keeps_place(source, dataset):
        _check_renamed(source, dataset)
    elif config.schedule.total_steps <= step:
        raise ConfigError(
            f"schedule.steps = {config.schedule.total_steps}: the branch begins at step {step}, and steps count from "
            "the start of the run that it goes on from; expected more; raise it"
        )


def _check_renamed(source: Source, dataset: Dataset) -> None:
    """Check that data that isn't the source's doesn't have its name."""
    if dataset.settings() == source.config.data.model_dump(include={"path", "mixture"}):
        raise DataError(
            f"{dataset.path} is not the data that {source.path} was trained on: it was changed since; expected the "
            "same, or other data by another name; name it with --data"
        )


def check_tokenizer(source: Source, dataset: Dataset) -> None:
    """Check that data has the ids that weights were trained on.

    Raises:
        DataError: it has others.
    """
    if not same_ids(dataset.tokenizer, source.tokenizer()):
        named, held, imported = dataset.settings(), source.path, ""
        theirs = named["path"] or next(iter(named["mixture"]))  # sets of a mixture have one tokenizer
        if source.progress is None:  # a folder of others
            held, imported = Path("IMPORTED"), f"lost convert {source.path} IMPORTED --from hf; "
        raise DataError(
            f"{dataset.path} was prepared with another tokenizer than the one of {source.path}; expected the same: "
            f"prepare it with --tokenizer {source.path}, or give the weights the data's ({imported}lost convert {held} "
            f"DST --tokenizer {theirs}) and begin with --init-from DST"
        )
