"""Every sample exactly once an epoch, across world sizes, batch splits and restarts."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lost.checkpoint import TrainState
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.distributed.group import SingleProcess
from lost.engine import StepResult
from lost.tracking import Tracker
from lost.training.run import Run


@dataclass
class Rank(SingleProcess):
    rank: int = 0  # type: ignore[misc]
    world_size: int = 1  # type: ignore[misc]


@dataclass
class Recorder:
    """An engine that trains nothing, and remembers what it was given."""

    workers: Rank
    rows: list[bytes] = field(default_factory=list)
    compiled: bool = False
    device: str = "gpu"  # for which batches are read ahead

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        for batch in micro_batches:
            self.rows += [row.tobytes() for row in batch.tokens]
        return StepResult(lambda: (0.0, 0.0))

    def memory(self) -> dict[str, int]:
        return {}


# One life of a run: workers, micro-batch, steps before it ends.
LIVES = st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, None]), st.integers(1, 9)))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=LIVES)
def test_every_sample_once_an_epoch(
    config: Callable[..., Config], prepared: Dataset, lives: list[tuple[int, int | None, int]]
) -> None:
    length = prepared.split("train").tokens // 40  # some forty samples an epoch
    model = {"vocab_size": prepared.tokenizer.vocab_size, "max_position_embeddings": 4096}
    seen: list[bytes] = []
    progress = TrainState(data=prepared.fingerprint)
    for count, micro, steps in [*lives, (1, None, 8)]:
        run_config = config(model=model, data={"seq_len": length}, train={"batch_size": 12, "micro_batch_size": micro})
        engines = [Recorder(Rank(rank, count)) for rank in range(count)]
        runs: list[Any] = [Run(run_config, Path(), prepared, engine, Tracker(), False, {}) for engine in engines]  # type: ignore[arg-type]
        for _ in range(steps):
            ends = [run.step(progress)[0] for run in runs]
            assert all(end == ends[0] for end in ends)
            progress = ends[0]
            seen += [row for engine in engines for row in engine.rows]
            for engine in engines:
                engine.rows.clear()
        for run in runs:
            run.close(failed=False)
    split = prepared.split("train")
    windows = Counter(
        split.read(number * length, length + 1).astype(np.int32).tobytes() for number in range(split.windows(length))
    )
    assert len(seen) == progress.samples
    epochs, rest = divmod(len(seen), windows.total())
    for epoch in range(epochs):
        part = seen[epoch * windows.total() : (epoch + 1) * windows.total()]
        assert Counter(part) == windows
    assert Counter(seen[len(seen) - rest :]) <= windows
