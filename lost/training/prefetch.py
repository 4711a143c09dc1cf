"""Reading ahead: a thread reads the next batches while an accelerator computes on those before."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from lost.data.batch import Batch


def batches_ahead(device: str) -> int:
    """Return how many batches to read before they are asked for: enough for a disk's pauses, and little memory.

    None on a CPU, which would compute in the time in which it reads.
    """
    return 0 if device == "cpu" else 4


class Prefetcher:
    """The batches of a run in their order, read before they are asked for.

    What reading a batch raises is raised where that batch is taken, when those in front of it are used.

    Args:
        read: returns the batch that begins at a sample.
        starts: where each batch begins, in order, without end.
        ahead: batches that are read meanwhile; 0: none, and each where it is taken, by no thread.
    """

    def __init__(self, read: Callable[[int], Batch], starts: Iterator[int], ahead: int) -> None:
        self._read, self._starts, self._ahead = read, starts, ahead
        self._thread = ThreadPoolExecutor(1, "reading")
        self._coming: deque[Future[Batch]] = deque()

    def take(self) -> Batch:
        """Return the next batch."""
        if not self._ahead:
            return self._read(next(self._starts))
        while len(self._coming) <= self._ahead:
            self._coming.append(self._thread.submit(self._read, next(self._starts)))
        return self._coming.popleft().result()

    def close(self) -> None:
        """Wait until the thread has left; what it hasn't begun to read is left out."""
        self._thread.shutdown(cancel_futures=True)
