"""The optimizers, framework-free: one file a kind, all under `Optimizer`; which settings nothing reads."""

from typing import cast

from lost.config import Config
from lost.config.registry import OPTIMIZERS, Registry
from lost.model.parameters import parameter_table
from lost.optim.adamw import AdamW
from lost.optim.adamw8bit import AdamW8bit
from lost.optim.base import Optimizer
from lost.optim.muon import Muon
from lost.optim.spectron import Spectron

KINDS = cast(Registry[type[Optimizer]], OPTIMIZERS)
KINDS.update(adamw=AdamW, adamw8bit=AdamW8bit, muon=Muon, spectron=Spectron)


def optimizer_of(config: Config) -> Optimizer:
    """Return the optimizer of a run.

    Raises:
        ConfigError: none has this name.
    """
    return KINDS[config.optimizer.name](config.optimizer)


def state_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the optimizer's arrays, under a checkpoint's names: `<parameter>.<array>`."""
    optimizer = optimizer_of(config)
    trained = {name: row for name, row in parameter_table(config).items() if row.trained}
    return {
        f"{name}.{array}": shape for array in optimizer.arrays for name, row in trained.items()
        if (shape := optimizer.shapes(row).get(array)) is not None
    }  # fmt: skip


__all__ = ["KINDS", "Optimizer", "optimizer_of", "state_shapes"]
