"""Activation checkpointing: values are dropped after the forward pass and recomputed in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Reads = Sequence[tuple[nn.Module, Sequence[str]]]


def rebuilt(reads: Reads, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, keeping only its arguments and its result for the backward pass.

    `mx.checkpoint` silently gives zero gradients to arrays that aren't arguments. `mlx.nn.utils.checkpoint` passes all
    arrays of a module as arguments, and those that aren't read get gradients of zeros, which take memory and time; a
    block has four steps, each of which reads only some of its arrays. Frozen arrays need no gradients, and stay where
    they are: modules are left holding what they were given here, until whoever differentiates puts trained ones back.

    Args:
        reads: modules, and the names of their trained arrays that the function reads.
        function: of arrays, and of other arguments, which have no gradient.
        arguments: its arguments.
    """

    def inner(weights: list[list[mx.array]], *arguments: Any) -> Any:
        for (module, names), values in zip(reads, weights, strict=True):
            module.update(dict(zip(names, values, strict=True)))
        return function(*arguments)

    return mx.checkpoint(inner)([[module[name] for name in names] for module, names in reads], *arguments)


def trained(*modules: nn.Module) -> Reads:
    """Return all trained arrays of modules that have no parts."""
    return [(each, list(each.trainable_parameters())) for each in modules]


def recomputed(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Return an elementwise function whose backward pass computes it anew, and so keeps nothing but its arguments.

    A compiled step then has a kernel for it in each pass. On a CPU it stays as it is: there exponentials take longer
    than reading them.
    """
    again = mx.checkpoint(function)
    return lambda *arguments: (function if on_cpu() else again)(*arguments)


def on_cpu() -> bool:
    """Return whether arrays are computed on a CPU."""
    return mx.default_device().type.name == "cpu"


def directly(reads: Reads, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function."""
    return function(*arguments)
