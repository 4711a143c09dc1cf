"""Trained arrays of one kind as one array, so that an update launches kernels for the kinds, not for each of them.

A stack is (n, *shape): that of n parameters, in the order of a forward pass. It goes by its parameters' names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import mlx.core as mx

from lost.config import OptimizerConfig
from lost.model.parameters import EMBEDDING, HEAD, Parameter
from lost.optim import KINDS
from lost.optim.muon import AT_ONCE

Names = tuple[str, ...]
Stacks = dict[Names, mx.array]


def kinds(settings: OptimizerConfig, rows: Iterable[Parameter], most: int = AT_ONCE) -> list[Names]:
    """Return the names of each stack: parameters of one shape that an optimizer treats alike.

    Args:
        settings: of the optimizer.
        rows: the trained parameters, in the order of a forward pass.
        most: entries of a stack, unless one parameter has more: an update takes memory by them.
    """
    optimizer = KINDS[settings.name](settings)
    found: dict[tuple[object, ...], list[Parameter]] = {}
    for row in rows:
        alone = row.name if row.name in (EMBEDDING, HEAD) else None
        found.setdefault((row.shape, row.parts, optimizer.group(row), alone), []).append(row)
    return [
        tuple(row.name for row in alike[first : first + count])
        for alike in found.values()
        for count in [max(1, most // alike[0].size)]
        for first in range(0, len(alike), count)
    ]


def stacked(arrays: Mapping[str, mx.array], names: Iterable[Names], suffix: str = "") -> Stacks:
    """Return stacks of arrays that go by their parameters' names and a suffix."""
    return {each: mx.stack([arrays[f"{name}{suffix}"] for name in each]) for each in names}


def parted(stacks: Mapping[Names, mx.array], suffix: str = "") -> Iterator[tuple[str, mx.array]]:
    """Yield each parameter's part of its stack, by its name and a suffix."""
    for names, stack in stacks.items():
        yield from ((f"{name}{suffix}", _one(stack, at)) for at, name in enumerate(names))


def joined(parts: Mapping[Names, mx.array], axes: Mapping[Names, int]) -> Stacks:
    """Return stacks made of parts.

    Args:
        parts: each of one parameter (*shape), or of several that follow each other (n, *shape), or of those in summands
            (p, n, *shape).
        axes: of each stack.
    """
    whole: Stacks = {}
    owners = {name: each for each in axes for name in each}
    gathered: dict[Names, list[mx.array]] = {each: [] for each in axes}
    for part, array in parts.items():
        owner = owners[part[0]]
        gathered[owner].append(array[None] if array.ndim < axes[owner] else array)
    for each, arrays in gathered.items():
        summands = arrays[0].ndim > axes[each]
        stack = arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=int(summands))
        whole[each] = stack.sum(axis=0) if summands else stack
    return whole


def split(stacks: Mapping[Names, mx.array], together: Sequence[Names], order: Iterable[str]) -> Stacks:
    """Return stacks in parts, without a copy: of several parameters where they are to be together, else of one each.

    Args:
        stacks: all of them.
        together: names that are wanted as one part; those that don't follow each other in a stack are parts alone.
        order: all names, in the order that parts are wanted in.
    """
    several = {some[0]: (some, part) for some in together for part in [view(stacks, some)] if part is not None}
    within = {name for some, _ in several.values() for name in some}
    parts: Stacks = {}
    for names, stack in stacks.items():
        for at, name in enumerate(names):
            if name in several:
                some, part = several[name]
                parts[some] = part
            elif name not in within:
                parts[name,] = _one(stack, at)
    places = {name: place for place, name in enumerate(order)}
    return {names: parts[names] for names in sorted(parts, key=lambda names: places[names[0]])}


def view(stacks: Mapping[Names, mx.array], some: Names) -> mx.array | None:
    """Return (n, *shape) of parameters that follow each other in a stack, without a copy; else nothing."""
    for names, stack in stacks.items():
        if some[0] in names:
            at = names.index(some[0])
            return stack[at : at + len(some)] if names[at : at + len(some)] == some else None
    return None


def _one(stack: mx.array, at: int) -> mx.array:
    """Return a view: an index alone would make it a gather, which copies."""
    return stack[at : at + 1].squeeze(0)
