"""The micro-batches of a run: which samples each worker reads, ahead of time, and how many it computes at once."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, islice

from lost.config import Config
from lost.data.batch import Batch
from lost.data.loader import SampleStream
from lost.distributed.group import SingleProcess, local_batch_size
from lost.engine import Engine, StepResult
from lost.errors import GradientMemoryError
from lost.planning.budget import budget
from lost.planning.micro_batch import half
from lost.planning.room import peak_remark

_UNPROVEN = 2  # steps since the start: the first update takes the moments' memory, the second step has them beside it


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


class MicroBatches:
    """Feeds an engine's steps.

    Args:
        config: the run.
        stream: its samples.
        engine: takes the steps.
        adapts: whether the size may be halved where the first steps show that it doesn't fit.
        say: shows the user a sentence.
        beside: bytes that the engine holds beside the run's, a teacher's.

    Attributes:
        size: sequences at once.
    """

    def __init__(
        self,
        config: Config,
        stream: SampleStream,
        engine: Engine,
        adapts: bool,
        say: Callable[[str], None],
        beside: int = 0,
    ) -> None:
        self._config, self._stream, self._engine, self._say, self._beside = config, stream, engine, say, beside
        # Others would wait in the midst of a step; and FSDP, of one worker too, keeps what it had summed up of it.
        self._adapts = adapts and isinstance(engine.workers, SingleProcess)
        self._unproven, self._halved = _UNPROVEN, False
        self._own_share, self.size = local_batch_size(config, engine.workers.world_size)
        self._coming: Prefetcher | None = None

    def step(self, first: int, predictions: int, lr: float) -> StepResult:
        """Have the engine take the step whose first sample is given; the first ones show whether memory suffices."""
        while self._unproven:
            try:
                report = self._step(first, predictions, lr)
            except GradientMemoryError:
                smaller = half(self._config, 1) if self._adapts else None
                if smaller is None:
                    raise
            else:
                self._unproven -= 1
                if not self._unproven:
                    self._compare()
                return report
            self._resize(smaller)  # out here, where the error no longer holds what the step had computed
        return self._step(first, predictions, lr)

    def _step(self, first: int, predictions: int, lr: float) -> StepResult:
        if self._coming is None:
            read = partial(self._stream.batch, count=self.size)
            self._coming = Prefetcher(read, self._starts(first), batches_ahead(self._engine.device))
        batches = (self._coming.take() for _ in range(self._own_share // self.size))
        return self._engine.step(batches, predictions, lr)

    def _compare(self) -> None:
        """Say so where the peak of memory parts from the estimate."""
        memory = self._engine.memory()
        recorded = "memory_active_bytes" in memory and self._engine.workers.world_size == 1
        if recorded and not self._halved:  # else it is the peak of the step that failed
            estimate = budget(self._config, self._engine.backend, self._engine.device).memory.total + self._beside
            if remark := peak_remark(memory["memory_bytes"], estimate):
                self._say(remark)

    def gradient_squares(self, first: int) -> tuple[list[float], float, list[int]]:
        """Have the engine measure the gradients of the step whose first sample is given, without taking it.

        Returns:
            The squared norm of each micro-batch's share, that of their sum, and each one's predictions. What workers
            compute at once is one micro-batch.
        """
        turns, worlds = range(0, self._own_share, self.size), range(self._engine.workers.world_size)
        counts = [
            sum(self._stream.predictions(first + rank * self._own_share + turn, self.size) for rank in worlds)
            for turn in turns
        ]
        batches = (self._stream.batch(start, self.size) for start in islice(self._starts(first), len(turns)))
        parts, whole = self._engine.gradient_squares(batches, sum(counts))
        return parts, whole, counts

    def close(self) -> None:
        """Let go of the data."""
        if self._coming:
            self._coming.close()
        self._coming = None

    def _resize(self, size: int) -> None:
        """Go on with fewer sequences at once."""
        self._say(
            f"{self.size} sequences at once (train.micro_batch_size = auto) took more memory than estimated, "
            f"before the step changed anything: training with {size}, which computes the same"
        )
        self.close()
        self._halved = True
        self.size, self._config = size, self._config.replace("train", micro_batch_size=size)

    def _starts(self, first: int) -> Iterator[int]:
        """Yield where each micro-batch of this worker begins, from the step on whose first sample is given."""
        for step in count(first, self._config.train.batch_size):
            mine = step + self._engine.workers.rank * self._own_share
            yield from range(mine, mine + self._own_share, self.size)
