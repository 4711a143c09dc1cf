"""AdamW: MLX's own, a group for each rate with and without decay."""

from collections.abc import Iterator, Mapping
from functools import partial

import mlx.core as mx
from mlx.optimizers import AdamW as Group

from lost.backends.mlx.optim.base import Named
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS
from lost.optim.base import relative_rate

_SLOTS = dict(zip(("m", "v"), MOMENTS, strict=True))  # MLX's names of the moments, and a checkpoint's


class AdamW:
    """Implements `Update`. All in float32, the moments rounded once to the parameters' type.

    Args:
        settings: of the run.
        parameters: the trained ones, by name.
        table: the parameter table.
    """

    def __init__(self, settings: OptimizerConfig, parameters: Named, table: Mapping[str, Parameter]) -> None:
        make = partial(Group, settings.lr, list(settings.betas), settings.eps, bias_correction=True)
        groups: dict[tuple[bool, float], list[str]] = {}
        for name in parameters:
            groups.setdefault((table[name].decays, relative_rate(settings, table[name])), []).append(name)
        self._groups = [
            (make(weight_decay=settings.weight_decay if decays else 0.0), rate, names)
            for (decays, rate), names in groups.items()
        ]
        self._order = list(parameters)
        for group, _, names in self._groups:
            group.init({name: parameters[name] for name in names})

    def step(self, lr: float, parameters: Named, gradients: Named) -> Named:
        """Return parameters after an update."""
        moved: Named = {}
        for group, rate, names in self._groups:
            group.learning_rate = mx.array(lr * rate, mx.float32)
            kept = {name: next(iter(group.state[name].values())).dtype for name in names}
            for name in names:
                group.state[name] = {slot: each.astype(mx.float32) for slot, each in group.state[name].items()}
            moved |= group.apply_gradients({name: gradients[name] for name in names}, parameters)
            for name in names:
                group.state[name] = {slot: each.astype(kept[name]) for slot, each in group.state[name].items()}
        return moved

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the moments."""
        states = {name: group.state[name] for group, _, names in self._groups for name in names}
        for name in self._order:
            yield from ((f"{name}.{moment}", states[name][slot]) for slot, moment in _SLOTS.items())

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load the moments."""
        for group, _, names in self._groups:
            for name in names:
                group.state[name] = {slot: arrays[f"{name}.{moment}"] for slot, moment in _SLOTS.items()}
            group.state["step"] = mx.array(updates, mx.uint64)

    def held(self) -> object:
        """Return MLX's optimizer states."""
        return [group.state for group, _, _ in self._groups]
