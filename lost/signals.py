"""Ctrl-C, a closed terminal, SIGTERM: the first asks the run to stop after its step and save, the second leaves."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lost.errors import LeftAtOnce


@contextmanager
def stop_on_signal(announce: Callable[[str], None], sigterm_asks: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a stop was requested; handlers are restored afterwards.

    Args:
        announce: told of the first signal.
        sigterm_asks: whether SIGTERM is such a request; else it ends the process at once, as ever.
    """
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise LeftAtOnce("left at once, on the second signal; what was saved before stands")
        requested = True
        announce(f"{signal.Signals(number).name}: saving after this step; again to leave at once")

    caught = {signal.SIGINT, signal.SIGHUP, *([signal.SIGTERM] if sigterm_asks else [])}
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
