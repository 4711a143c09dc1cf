"""Ranks that move between layers where a run begins: measured once, and from then on the run's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import Workers
from lost.errors import ConfigError
from lost.interop.hub.download import as_typed
from lost.interop.source import Source
from lost.model.adapted import adapters
from lost.reshape.adapter_ranks import may_become, unmoved, with_ranks
from lost.training.origin.calibration import measure_of
from lost.training.run_dir import last_config
from lost.utils.wording import counted


def with_moved_ranks(
    config: Config,
    held_by: Path | None,
    source: Source | None,
    dataset: Dataset,
    backend: str,
    device: str,
    workers: Workers,
    say: Callable[[str], None],
) -> Config:
    """Return the configuration with ranks by layer, where it asks for them; all workers call this, the first measures.

    Args:
        config: its micro-batch known.
        held_by: the run folder; None: the run starts over.
        source: the weights to begin with; None: the run goes on, or nothing is to be measured.
        dataset: what the run is trained on.
        backend: measures.
        device: as the backend names it.
        workers: the processes of the run.
        say: told what was found.

    Raises:
        ConfigError: the weights have adapters already, whose ranks are settled.
    """
    if not unmoved(config):
        return config
    if source and adapters(source.config):
        raise ConfigError(
            f"projection.rho = {config.projection.rho:g}: the weights of {as_typed(source.path)} are adapted already, "
            "each layer at its rank; expected 1, to train them further; leave it out"
        )
    overrides: dict[str, Any] = config.projection.overrides
    if workers.rank == 0:
        before = last_config(held_by) if held_by else None
        if before:
            overrides = _same(config, before)
        elif source:
            moved = with_ranks(config, measure_of(source, config, dataset, backend, device))
            overrides = moved.projection.overrides
            say(_found(config, moved))
    return config.replace("projection", overrides=json.loads(workers.broadcast(json.dumps(overrides))))


def _same(config: Config, before: Config) -> dict[str, Any]:
    """Return the overrides that a run began with, where they are what became of the ones that are asked for."""
    own, held = (each.projection.overrides for each in (config, before))
    return held if may_become(config, held) else own


def _found(config: Config, moved: Config) -> str:
    """Return what is said of ranks that were moved."""
    names = {each.name for each in unmoved(config)}
    ranks = [each.settings.rank for each in adapters(moved) if each.name in names]
    alone = len(names) - len(ranks)
    left = f"; {counted(alone, 'layer')} of them stay as they are" if alone else ""
    return f"ranks moved between {counted(len(names), 'layer')}: {min(ranks)} to {max(ranks)} each{left}"
