"""`lost train --init-from`, `--branch-from`: a new run that starts with the weights of another model.

They become the run's first checkpoint, of step 0 or, with all that a run goes on with, of the step where it branches
(of step 0 too where a branch has other data: then moments come along, but no place).
From there on it is a run like any other: it resumes without the source of the weights, and every worker reads its part.
"""

from dataclasses import replace
from pathlib import Path

from lost import checkpoint
from lost.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    Origin,
    TrainState,
    checkpoints,
    open_checkpoint,
    run_and_step,
    set_latest,
)
from lost.checkpoint.changes import differences
from lost.checkpoint.lineage import kept
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import CheckpointError, ConfigError, UserError
from lost.interop.hub.download import as_typed, cached
from lost.interop.layout import SEQ_LEN
from lost.interop.rewrite import as_stored
from lost.interop.source import Source, open_source
from lost.interop.to_hf.description import model_config
from lost.model.adapted import adapters, base_config
from lost.model.load import load_config
from lost.model.parameters import index_limits, parameter_table, projections, shapes_of
from lost.reshape.adapters import Measure, adapting
from lost.storage.arrays import Digest, check_arrays
from lost.storage.files import atomic_dir, storage
from lost.storage.nofollow import resolved
from lost.storage.tensors import write_tensors
from lost.training.origin.branch import keeps_place, open_branch
from lost.training.run_dir import CONFIG, config_file

# What the run's model may differ in from the weights': the length of the context, and what only affects initialization.
_FREE_OF_MODEL = ("max_position_embeddings", "rope_theta", "initializer_range")
_FREE = {
    *(f"model.{key}" for key in _FREE_OF_MODEL),
    *(f"projection.{key}" for key in ("init_std", "start", "select", "values", "train_rest")),
}
_OPTION = {False: "--init-from", True: "--branch-from"}  # by whether it branches


def beginning(path: Path, folder: Path, fresh: bool, configured: bool, branches: bool) -> tuple[Config, Source | None]:
    """Return the configuration that supplies what the run's own leaves out, and the model to start with.

    Args:
        path: of --init-from or --branch-from.
        folder: the run folder; if it has checkpoints the run is resumed, and the source isn't opened.
        fresh: whether to start over even so.
        configured: whether the run has a configuration of its own.
        branches: whether it goes on as the run that `path` names.

    Raises:
        CheckpointError: there are no weights.
        ConfigError: the folder's run started with other weights.
        UserError: the start would remove the weights, or nothing says how to train.
    """
    held = [] if fresh else checkpoints(folder / CHECKPOINTS)
    if held:
        _check_origin(held, path, folder, branches)
        return load_config(config_file(folder) or folder / CONFIG), None
    source = open_branch(path) if branches else open_source(path)
    if resolved(source.path).is_relative_to(resolved(folder)):
        raise UserError(
            f"{_OPTION[branches]} {path} is in {folder}, whose checkpoints a new run there would replace; choose "
            "another --out"
        )
    if source.progress is None and not configured:
        raise UserError(
            f"--init-from {as_typed(path)}: it doesn't say how to train; expected a configuration; name one, which "
            "may leave out model and projection"
        )
    return source.config, source


def _check_origin(held: list[Path], named: Path, folder: Path, branches: bool) -> None:
    source, step = run_and_step(named) if branches else (named, None)
    for path in reversed(held):
        try:
            origin = open_checkpoint(path).progress.origin
        except CheckpointError:
            continue  # reported when the run is resumed
        same = origin and Path(origin.path).is_relative_to(cached(source)) and step in (None, origin.step)
        if origin is None or not same or origin.moments != branches:
            how = "branched from" if origin and origin.moments else "started with"
            started = f"{how} {origin.path}" if origin else "didn't start with other weights"
            raise ConfigError(
                f"{_OPTION[branches]} {as_typed(named)}: the run in {folder} {started}; expected the same; leave it "
                "out to resume, choose another --out, or start over with --fresh --overwrite"
            )
        return


def check_fit(source: Source, config: Config) -> None:
    """Check that a run can start with these weights.

    Raises:
        ConfigError: its model is another one; the message names every difference.
    """
    _check_adapts(source, config)
    config = _held_by(source, config)
    changes = differences(source.config, config)
    others = [
        text for key, text in changes.items() if key.partition(".")[0] in ("model", "projection") and key not in _FREE
    ]
    if others and not _same_model(source.config, config):
        raise ConfigError(
            f"the weights of {source.path} are of another model: {'; '.join(others)} there. Expected the same; keys "
            "that the configuration leaves out follow the weights: remove these keys from it, or the sections"
        )


def _held_by(source: Source, config: Config) -> Config:
    """Return the configuration of the weights that a run begins with: where it adapts, of what it adapts."""
    return config if adapters(source.config) else base_config(config)


def _check_adapts(source: Source, config: Config) -> None:
    """Refuse other adapters than the weights' own, if they have any, and adapters of layers that aren't dense."""
    own, wanted = ([(each.name, each.settings) for each in adapters(of)] for of in (source.config, config))
    where = as_typed(source.path)
    if own and own != wanted:
        raise ConfigError(
            f"the weights of {where} are adapted already ({own[0][1].kind}, rank {own[0][1].rank}), and this run has "
            "other layers; expected the same, to train them further; leave projection out of the configuration, or "
            f"merge them with `lost convert {where} MERGED --to dense`, and begin with --init-from MERGED"
        )
    kinds = {each.name: each.settings.kind for each in projections(source.config)}
    for name, settings in [] if own else wanted:
        if (kind := kinds.get(name, "dense")) != "dense":
            raise ConfigError(
                f"projection.kind = {settings.kind}: {name} of {where} is stored as {kind}; expected a dense weight to "
                f"adapt; merge layers without activation with `lost convert {where} MERGED --to dense` and begin with "
                "--init-from MERGED, or adapt dense layers alone, by their names in projection.overrides"
            )


def _same_model(held: Config, wanted: Config) -> bool:
    """Whether two configurations, which may spell it differently, are of one model, but for what is free."""
    free = {key: getattr(wanted.model, key) for key in _FREE_OF_MODEL}
    held = held.model_copy(update={"model": held.model.model_copy(update=free)})
    described = [{**model_config(each, 0, ""), SEQ_LEN: None} for each in (held, wanted)]
    return parameter_table(held) == parameter_table(wanted) and described[0] == described[1]


def begin_with(
    source: Source,
    config: Config,
    folder: Path,
    dataset: Dataset,
    branches: bool,
    measure: Measure,
    teacher: str | None = None,
) -> Checkpoint:
    """Write the weights as the first checkpoint of a run, and return it.

    Args:
        source: of the weights.
        config: of the run.
        folder: the run folder, without checkpoints.
        dataset: what it is trained on.
        branches: whether moments come along, and on the same data counts and the step.
        measure: of the layers of the source's model, for adapters that begin by what the data shows.
        teacher: the identity of what it learns from beside the data; None: nothing.

    Raises:
        CheckpointError: the arrays aren't those of the model.
        StorageError: the disk refused.
    """
    before = source.progress
    begun = before if before and branches and keeps_place(source, dataset) else TrainState(data=dataset.fingerprint)
    path = checkpoint.checkpoint_path(folder / CHECKPOINTS, begun.step)
    held = parameter_table(_held_by(source, config))
    digest = Digest()
    arrays = digest.passing(check_arrays(source.parameters(), shapes_of(held), index_limits(held)))
    if not adapters(source.config):
        arrays = adapting(config, arrays, measure)
    arrays = as_stored(arrays, parameter_table(config))
    with atomic_dir(path, replace=True) as partial:
        files = write_tensors(partial, checkpoint.MODEL, arrays)
        if branches:
            files |= write_tensors(partial, checkpoint.OPTIMIZER, open_checkpoint(source.path).moments())
        origin = Origin(str(resolved(source.path)), None, digest.hexadecimal, branches)
        if before:
            data = source.config.data
            origin = replace(
                origin,
                step=before.step,
                before=kept(before.origin),
                data=before.data,
                data_path=data.path or " + ".join(data.mixture or ()),
                updates=before.updates - begun.updates_here if branches else 0,
            )
        if begun.stops_early(config.train.early_stop):  # where the run ended that this one goes on from
            begun = replace(begun, best=None)
        progress = replace(begun, origin=origin, teacher=teacher)
        checkpoint.write_manifest(partial, files, config, progress, dataset.tokenizer)
    with storage(path):
        set_latest(path)
    return open_checkpoint(path)
