"""AdamW, in kernels that each write over what they read."""

from collections.abc import Iterator, Mapping

import mlx.core as mx

from lost.backends.mlx.optim.stacks import Stacks, parted, stacked
from lost.config import OptimizerConfig
from lost.model.parameters import Parameter
from lost.optim import KINDS
from lost.optim.adamw import MOMENTS


class AdamW:
    """Implements `StackedUpdate`. All in float32, the moments rounded once to the parameters' type.

    The arithmetic is that of `mlx.optimizers.AdamW`. That, compiled, is a kernel with three results for each tensor,
    and such kernels never take over a buffer: new weights and moments would be held beside the old ones.

    Args:
        settings: of the run.
        parameters: the trained ones.
        table: the parameter table.
    """

    compiles = True
    stacks = "compiled"  # else an operation's results, of all in a stack, would be held beside it

    def __init__(self, settings: OptimizerConfig, parameters: Stacks, table: Mapping[str, Parameter]) -> None:
        self._betas, self._eps = settings.betas, settings.eps
        optimizer = KINDS[settings.name](settings)
        self._shares = {names: optimizer.group(table[names[0]]) for names in parameters}
        self._moments = {names: [mx.zeros_like(each) for _ in MOMENTS] for names, each in parameters.items()}
        self._updates = [mx.array(0)]

    def step(self, lr: mx.array, parameters: Stacks, gradients: Stacks) -> Stacks:
        """Return parameters after an update."""
        self._updates[0] = self._updates[0] + 1
        first_beta, second_beta = self._betas
        first_bias, second_bias = (1 - beta ** self._updates[0] for beta in self._betas)
        moved: Stacks = {}
        for names, held in self._moments.items():
            gradient, dtype, share = gradients[names], held[0].dtype, self._shares[names]
            rate = lr * share.rate
            first, second = (each.astype(mx.float32) for each in held)
            first = first_beta * first + (1 - first_beta) * gradient
            second = second_beta * second + (1 - second_beta) * gradient.square()
            first, second = mx.depends([first, second], [gradient])  # a kernel's end, if compiled
            held[:] = first.astype(dtype), second.astype(dtype)
            scale = second.sqrt() * second_bias.rsqrt() + self._eps
            moved[names] = parameters[names] * (1 - rate * share.weight_decay) - rate / first_bias * first / scale
        return moved

    def state(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the moments."""
        for number, moment in enumerate(MOMENTS):
            yield from parted({names: held[number] for names, held in self._moments.items()}, f".{moment}")

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        """Load the moments."""
        for number, moment in enumerate(MOMENTS):
            for names, stack in stacked(arrays, self._moments, f".{moment}").items():
                self._moments[names][number] = stack
        self._updates[0] = mx.array(updates)

    def held(self) -> object:
        """Return the moments and the number of updates."""
        return [*self._moments.values(), self._updates]
