"""An update of all parameters, by gradients that are clipped to a joint norm."""

from collections.abc import Mapping
from math import inf, isqrt

import mlx.core as mx

from lost.backends.mlx.arrays import DTYPES
from lost.backends.mlx.optim.base import StackedUpdate
from lost.backends.mlx.optim.stacks import Names, Stacks, joined
from lost.config import TrainConfig


def joint(axes: Mapping[Names, int], parts: Stacks) -> tuple[mx.array, Stacks]:
    """Return the joint L2 norm of gradients, and their stacks.

    Summed row by row, then the rows' sums in a square, its columns first: one sum over all entries, as
    `mlx.optimizers.clip_grad_norm` takes it, is off by 2e-3 for an embedding of 2M entries on a CPU, which is enough
    for two backends to part.
    """
    gradients = joined(parts, axes)
    rows = mx.concatenate(
        [gradient.astype(mx.float32).square().sum(axis=-1).flatten() for gradient in gradients.values()]
    )
    side = isqrt(rows.size - 1) + 1
    square = mx.pad(rows, (0, side * side - rows.size)).reshape(side, side)
    return mx.sqrt(square.sum(axis=0).sum()), gradients


def move(
    optimizer: StackedUpdate, stacks: Stacks, train: TrainConfig, lr: mx.array, norm: mx.array, gradients: Stacks
) -> None:
    """Move every parameter by its gradient, all of them clipped to a joint norm.

    All in float32, rounded once to `param_dtype`: in bfloat16 the decay of a step would round to nothing.
    """
    scale = mx.minimum((train.grad_clip or inf) / (norm + 1e-6), 1.0)
    clipped = {name: gradient.astype(mx.float32) * scale for name, gradient in gradients.items()}
    moved = optimizer.step(lr, cast(stacks, mx.float32), clipped)
    stacks.update(cast(moved, DTYPES[train.param_dtype]))


def cast(arrays: Stacks, dtype: mx.Dtype) -> Stacks:
    """Return stacks in a type."""
    return {name: array.astype(dtype) for name, array in arrays.items()}
