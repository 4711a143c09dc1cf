"""Ends of a text that is generated: stop strings, and special tokens, which no text has."""

from collections.abc import Iterable, Iterator, Sequence

from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of


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


def special_token(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the special token that a text is the name of; None: it is ordinary text."""
    ids = tokenizer.encode(text, special_tokens=True).tolist()
    return ids[0] if len(ids) == 1 and ids != tokenizer.encode(text).tolist() else None


def ends_of_turn(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the special token that the tokenizer's chat template has after an answer, if it has one.

    Some models end a text with another, and are trained to have more between the two, such as a line break.

    Raises:
        DataError: the template isn't valid.
    """
    after = template_of(tokenizer).after_answer()
    ordinary = set(tokenizer.encode(after).tolist())
    return frozenset([id for id in tokenizer.encode(after, special_tokens=True).tolist() if id not in ordinary][:1])


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
