"""Handling of Ctrl-C, SIGTERM and a closed terminal: the first signal saves and stops, the second stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lost.errors import InterruptedAtOnceError


class Stop:
    """A request to stop the run.

    Attributes:
        requested: whether a first signal was received.
        number: the signal's, if this process received it; else SIGINT's: another worker did.
        finished: training is over, and all of it saved; only copies are being made.
        nothing_to_save: no step is done yet, so that a signal stops at once, even during compilation.
    """

    def __init__(self) -> None:
        self.requested, self.number, self.nothing_to_save = False, int(signal.SIGINT), True
        self.finished = False


@contextmanager
def stop_on_signal(announce: Callable[[str], None], sigterm_asks: bool = True) -> Iterator[Stop]:
    """Handle signals, and yield the request to stop; the previous handlers are restored afterwards.

    Args:
        announce: called with a message on the first signal.
        sigterm_asks: whether SIGTERM is such a request; else it ends the process at once, as usual.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if stop.nothing_to_save:
            raise InterruptedAtOnceError(f"{name}: stopped before the first step was done; nothing new to save", number)
        if stop.finished:
            raise InterruptedAtOnceError(
                f"{name}: the run is saved, its copies elsewhere not all made; the same command makes them", number
            )
        if stop.requested:
            raise InterruptedAtOnceError(
                "stopped at once, on the second signal; what was saved before is intact", number
            )
        stop.requested, stop.number = True, number
        announce(f"{name}: saving after this step; send it again to stop at once")

    caught = {signal.SIGINT, signal.SIGHUP, *([signal.SIGTERM] if sigterm_asks else [])}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        caught.remove(signal.SIGHUP)  # started with nohup
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
