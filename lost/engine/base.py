"""The seam: what the core asks of a backend. One optimizer step crosses it, never an array operation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lost.data.batch import Batch
from lost.distributed.group import Workers
from lost.optim.skip_step import Guard
from lost.storage.arrays import NamedArrays


@dataclass(frozen=True)
class StepResult:
    """The result of one optimizer step, still on the device.

    Attributes:
        wait: waits for the device, so only call it where a step is reported; returns (mean loss over the step's
            predictions, L2 norm of all gradients before clipping).
    """

    wait: Callable[[], tuple[float, float]]


class Engine(Protocol):
    """A model on a device, able to train and to be asked.

    Arrays that cross are numpy: float32, bfloat16 (ml_dtypes) or int32, under the names of the parameter table.
    """

    backend: str
    device: str
    workers: Workers

    @property
    def guard(self) -> Guard:
        """What decides which updates are left out."""

    @property
    def first_rows(self) -> Mapping[str, int]:
        """Where the rows that this worker yields of an array begin, by name; of arrays not listed, at 0."""

    def load(self, parameters: NamedArrays) -> None:
        """Take every parameter; a missing, unknown or misshapen one is a CheckpointError.

        Of several workers all call this and `load_optimizer_state`. Each brings some of the arrays, whole, and every
        array is brought by one of the workers that read files.
        """

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield this worker's rows of every parameter; the arrays may be views, valid until the next step."""

    def load_optimizer_state(self, moments: NamedArrays, updates: int) -> None:
        """Take the arrays that `lost.optim.state_shapes` lists, as they were after so many updates."""

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield its rows of the moments, named as `load_optimizer_state` takes them; nothing before the first step."""

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        """Do one optimizer step on the mean loss over `predictions`, the count over all workers' micro-batches.

        Where the guard says so, on all workers alike, weights and moments stay as they are.
        """

    def suspects(self) -> list[str]:
        """Name the parameters whose gradients in the last step weren't finite, else the three largest ones'."""

    def score(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each batch, how likely each of its targets is after what precedes it.

        The negative log-likelihoods, (b, s) float32, natural log; and whether the target is the likeliest entry of
        the vocabulary, (b, s) bool. Where the batch doesn't count a prediction, both mean nothing.
        """

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed negative log-likelihood in nats, number of predictions counted) of this worker's batches."""

    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens after `prompt`; `choose` maps (vocab,) float32 logits to the next one."""

    def memory(self) -> dict[str, int]:
        """Return bytes as metrics.jsonl names them.

        `memory_bytes`, the peak since the engine was made (where the device doesn't count, the process's); and, where
        they are known, `memory_active_bytes` in use now and `memory_cache_bytes` freed but kept for reuse.
        """
