"""What an origin keeps of those before it: some generations, however many there were.

Else a manifest would grow with each run that begins with another one's weights, and each round of averages would
multiply it by their parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lost.checkpoint.state import Origin

_GENERATIONS = 16  # before a run's own
_OF_A_PART = 2  # what it began with, and the first: an average has as many of these as parts


def line(origin: Origin | None) -> Iterator[Origin]:
    """Yield an origin and those before it; of an average, that of its first part."""
    while origin:
        yield origin
        origin = origin.parts[0] if origin.parts else origin.before


def kept(origin: Origin | None) -> Origin | None:
    """Return what the origin that follows an origin keeps of it: its newest generations, and the first."""
    generations = []
    while origin:
        parts = tuple(replace(part, before=kept_of_part(part.before)) for part in origin.parts)
        generations.append(replace(origin, parts=parts))
        origin = origin.before
    return _shortened(generations, _GENERATIONS)


def kept_of_part(origin: Origin | None) -> Origin | None:
    """Return what a part of an average keeps of the origin of its run: less, and nothing of parts of its own."""
    return _shortened([replace(each, parts=()) for each in line(origin)], _OF_A_PART)


def _shortened(generations: Sequence[Origin], most: int) -> Origin | None:
    """Return the newest of these, each before the one that follows it, and behind them the last."""
    if len(generations) > most:
        *newest, joint = generations[: most - 1]
        gone, last = generations[most - 1 : -1], generations[-1]
        generations = [*newest, _before_gap(joint, gone), _behind_gap(last, [generations[0], *gone])]
    origin = None
    for each in reversed(generations):
        origin = replace(each, before=origin)
    return origin


def _before_gap(origin: Origin, gone: Sequence[Origin]) -> Origin:
    return replace(origin, omitted=origin.omitted + len(gone) + sum(each.omitted for each in gone))


def _behind_gap(first: Origin, since: Sequence[Origin]) -> Origin:
    """Return an origin as if what followed it were one step: a branch on the same data, if each of them was."""
    branched = all(each.moments for each in since) and len({each.data for each in since if each.data}) <= 1
    return replace(first, moments=first.moments and branched)
