"""Keeping little for the backward pass: a step's values are dropped, and computed again when they are needed."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Reads = Sequence[tuple[nn.Module, Sequence[str]]]


def rebuilt(reads: Reads, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, keeping its arguments and its result alone.

    `mx.checkpoint` silently gives zero gradients to arrays that aren't arguments. `mlx.nn.utils.checkpoint` makes
    arguments of all arrays of a module, and gives those that a step doesn't read gradients of zeros, which take memory
    and time; a block has four steps, and each reads a part of its arrays only.

    Args:
        reads: modules, and the names of their trained arrays that the function reads.
        function: of arrays, and of what isn't an array and has no gradient.
        arguments: its arguments.
    """

    def inner(weights: list[list[mx.array]], *arguments: Any) -> Any:
        for (module, names), values in zip(reads, weights, strict=True):
            module.update(dict(zip(names, values, strict=True)))
        return function(*arguments)

    return mx.checkpoint(inner)([[module[name] for name in names] for module, names in reads], *arguments)


def directly(reads: Reads, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns."""
    return function(*arguments)
