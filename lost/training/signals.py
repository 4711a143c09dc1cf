"""Ctrl-C, a closed terminal, SIGTERM: the first asks the run to stop after its step and save, the second leaves."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lost.errors import InterruptedAtOnceError


class Stop:
    """Whether the run is asked to stop.

    Attributes:
        requested: a first signal came.
        nothing_to_save: no step was done yet, so that there is nothing to wait for, be it the compilation's end.
    """

    def __init__(self) -> None:
        self.requested, self.nothing_to_save = False, True


@contextmanager
def stop_on_signal(announce: Callable[[str], None], sigterm_asks: bool = True) -> Iterator[Stop]:
    """Yield what says whether a stop was requested; handlers are restored afterwards.

    Args:
        announce: told of the first signal.
        sigterm_asks: whether SIGTERM is such a request; else it ends the process at once, as ever.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if stop.nothing_to_save:
            raise InterruptedAtOnceError(f"{name}: left before the first step was done; there is nothing new to save")
        if stop.requested:
            raise InterruptedAtOnceError("left at once, on the second signal; what was saved before stands")
        stop.requested = True
        announce(f"{name}: saving after this step; again to leave at once")

    caught = {signal.SIGINT, signal.SIGHUP, *([signal.SIGTERM] if sigterm_asks else [])}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        caught.remove(signal.SIGHUP)  # started with nohup
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
