"""The one-dimensional search: twofold steps until the best value is inside those that were tried."""

from collections.abc import Callable, Sequence

STEPS = 8  # beyond the values that a search begins with, to either side: 256 times as much, or as little


def beyond(tried: Sequence[float], best: float, allowed: Callable[[float], bool] = lambda value: True) -> float | None:
    """Return the value to try next: half or twice the best, where it is the least or the largest; None: it is inside.

    Args:
        tried: ascending.
        best: one of them; half of an even whole number is whole too.
        allowed: whether a value can be tried at all; of a single value that was tried, twice it follows on its half.
    """
    fresh = []
    if best == tried[0]:
        fresh.append(best // 2 if isinstance(best, int) and best % 2 == 0 else best / 2)
    if best == tried[-1]:
        fresh.append(best * 2)
    return next(filter(allowed, fresh), None)


def searched(
    begins: Sequence[float],
    loss: Callable[[float], float | None],
    allowed: Callable[[float], bool] = lambda value: True,
) -> tuple[list[float], bool]:
    """Return the values that a search has come to, ascending, and whether it is over.

    Args:
        begins: the values that it begins with.
        loss: of a value; None: it isn't known yet.
        allowed: whether a value can be tried at all; at an edge beyond which none can, a search ends.
    """
    tried = sorted(begins)
    lowest, highest = tried[0] / 2**STEPS, tried[-1] * 2**STEPS
    while True:
        losses = {value: loss(value) for value in tried}
        if None in losses.values():
            return tried, False
        best = min(tried, key=lambda value: losses[value] or 0.0)
        fresh = beyond(tried, best, lambda value: lowest <= value <= highest and allowed(value))
        if fresh is None:
            return tried, True
        tried = sorted([*tried, fresh])
