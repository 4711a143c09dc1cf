"""AdamW: MLX's own, in two halves, for parameters with weight decay and for the others."""

from collections.abc import Iterator, Mapping
from functools import partial

import mlx.core as mx
from mlx.optimizers import AdamW as Half

from lost.backends.mlx.optim.base import Named
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS

_SLOTS = dict(zip(("m", "v"), MOMENTS, strict=True))  # MLX's names of the moments, and a checkpoint's


class AdamW:
    """Implements `Update`. All in float32, the moments rounded once to the parameters' type.

    Args:
        settings: of the run.
        parameters: the trained ones, by name.
        table: the parameter table.
    """

    def __init__(self, settings: OptimizerConfig, parameters: Named, table: Mapping[str, Parameter]) -> None:
        make = partial(Half, settings.lr, list(settings.betas), settings.eps, bias_correction=True)
        decaying = [name for name in parameters if table[name].decays]
        others = [name for name in parameters if not table[name].decays]
        self._halves = [(make(weight_decay=settings.weight_decay), decaying), (make(weight_decay=0.0), others)]
        self._order = list(parameters)
        for half, names in self._halves:
            half.init({name: parameters[name] for name in names})

    def step(self, lr: float, parameters: Named, gradients: Named) -> Named:
        """Return parameters after an update."""
        moved: Named = {}
        for half, names in self._halves:
            half.learning_rate = mx.array(lr, mx.float32)
            kept = {name: next(iter(half.state[name].values())).dtype for name in names}
            for name in names:
                half.state[name] = {slot: each.astype(mx.float32) for slot, each in half.state[name].items()}
            moved |= half.apply_gradients({name: gradients[name] for name in names}, parameters)
            for name in names:
                half.state[name] = {slot: each.astype(kept[name]) for slot, each in half.state[name].items()}
        return moved

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the moments."""
        states = {name: half.state[name] for half, names in self._halves for name in names}
        for name in self._order:
            yield from ((f"{name}.{moment}", states[name][slot]) for slot, moment in _SLOTS.items())

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load the moments."""
        for half, names in self._halves:
            for name in names:
                half.state[name] = {slot: arrays[f"{name}.{moment}"] for slot, moment in _SLOTS.items()}
            half.state["step"] = mx.array(updates, mx.uint64)

    def held(self) -> object:
        """Return MLX's optimizer states."""
        return [half.state for half, _ in self._halves]
