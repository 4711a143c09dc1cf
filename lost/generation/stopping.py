"""Stop strings: text that ends before any of them, as it is generated."""

from collections.abc import Iterable, Iterator, Sequence


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield pieces of text up to where the first of the stop strings begins; ask for no more once one is whole.

    What may be the beginning of a stop string is held back until it is known.

    Args:
        pieces: of a text, in order.
        stops: not empty each.
    """
    held = ""
    for piece in pieces:
        held += piece
        ends = [place for stop in stops if (place := held.find(stop)) >= 0]
        if ends:
            yield held[: min(ends)]
            return
        kept = max((_overlap(held, stop) for stop in stops), default=0)
        yield held[: len(held) - kept]
        held = held[len(held) - kept :]
    yield held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
