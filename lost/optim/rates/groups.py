"""The learning rates and decays that a run's tensors have, by what they are."""

from typing import Any

from lost.config import Config
from lost.model.parameters import EMBEDDING, HEAD, parameter_table, widening
from lost.optim import optimizer_of
from lost.optim.base import Group

_NAMES = {EMBEDDING: "embedding", HEAD: "head"}


def report(config: Config) -> dict[str, Any]:
    """Return how many times as wide as its proxy a model is, and the groups of tensors with one peak rate and decay.

    Args:
        config: its vocabulary known.
    """
    optimizer, groups = optimizer_of(config), dict[Group, dict[str, None]]()
    for name, row in parameter_table(config).items():
        if row.trained:
            what = _NAMES.get(name) or ("norms" if name.endswith("norm.weight") else name.rpartition(".")[2])
            groups.setdefault(optimizer.group(row), {})[what] = None
    return {
        "widening": widening(config),
        "groups": [
            {"tensors": list(tensors), "lr": config.optimizer.lr * group.rate, "weight_decay": group.weight_decay}
            for group, tensors in groups.items()
        ],
    }
