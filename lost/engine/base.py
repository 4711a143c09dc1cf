"""The interface of an engine. Whole optimizer steps cross it, never single array operations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lost.config import Config
from lost.data.batch import Batch, SoftTargets
from lost.distributed.group import Workers
from lost.optim.gradients.skip_step import Guard
from lost.storage.arrays import NamedArrays


@dataclass(frozen=True)
class StepResult:
    """The result of one optimizer step, still on the device.

    Attributes:
        wait: waits for the device, so only call it where a step is reported, be it this one or a later one; returns
            (mean loss over the step's predictions, L2 norm of all gradients before clipping).
        divergence: waits too; returns the mean divergence KL(teacher || student) over the same predictions, at the
        teacher's temperature, in nats. None: there is no teacher.
    """

    wait: Callable[[], tuple[float, float]]
    divergence: Callable[[], float] | None = None


class Engine(Protocol):
    """A model on a device, for training, evaluation and generation.

    Arrays are exchanged as numpy: float32, bfloat16 (ml_dtypes) or int32, under the names of the parameter table.
    """

    backend: str
    device: str
    workers: Workers
    compiled: bool
    """Whether the first step compiles what the later ones run, which may take minutes."""
    yields_views: bool
    """Whether what `dump` and `optimizer_state` yield may be memory that the next step changes; else copies already."""

    @property
    def threads(self) -> int | None:
        """The threads that compute, on a CPU: another number rounds sums otherwise."""

    @property
    def guard(self) -> Guard:
        """Decides which updates are skipped."""

    @property
    def first_rows(self) -> Mapping[str, int]:
        """The first of the rows that this worker yields of each array, by name; 0 for arrays not listed."""

    def load(self, parameters: NamedArrays) -> None:
        """Load every parameter; a missing, unknown or misshapen one is a CheckpointError.

        With several workers, all call this and `load_optimizer_state`. Each that reads files contributes some of the
        arrays, whole, and together they contribute every array once.
        """

    def teach(self, teacher: Config, parameters: NamedArrays) -> None:
        """Load a teacher: steps learn from it too, as the configuration's `teacher` says.

        Batches with soft targets need none. With several workers each calls this with all of the teacher's parameters,
        and holds and runs all of it.

        Args:
            teacher: its model, its vocabulary the run's; computed in its `train.param_dtype`.
            parameters: as `load` takes them, and with its errors.
        """

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield this worker's rows of every parameter; with `yields_views` valid until the next step."""

    def load_optimizer_state(self, moments: NamedArrays, updates: int) -> None:
        """Load the arrays that `lost.optim.state_shapes` lists, as they were after `updates` updates."""

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield this worker's rows of the optimizer state, named as it is loaded; nothing before the first step."""

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        """Do one optimizer step on the mean loss over `predictions`, the total of all workers' micro-batches.

        With a teacher, on `teacher.weight` of its divergence and the rest of the mean loss, which is what is returned.
        Where the guard decides to skip the update, on all workers alike, weights and moments stay unchanged.

        Raises:
            GradientMemoryError: memory ran out before anything changed; the step may be taken again.
        """

    def gradient_squares(self, micro_batches: Iterable[Batch], predictions: int) -> tuple[list[float], float]:
        """Return squared norms of each micro-batch's share of the gradient that a step on all would have, and of it.

        Of several workers, those that they compute at once count as one micro-batch. Nothing is changed.
        """

    def suspects(self) -> list[str]:
        """Return the names of parameters whose last gradients weren't finite, else of the three largest gradients."""

    def score(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each batch, how likely each target is in its context.

        The negative log-likelihoods, (b, s) float32, natural log; and whether the target is the likeliest entry of
        the vocabulary, (b, s) bool. Both are meaningless where the batch doesn't count a prediction.
        """

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed negative log-likelihood in nats, number of predictions counted) of this worker's batches."""

    def predict(self, batches: Iterable[Batch], top_k: int, temperature: float) -> Iterator[SoftTargets]:
        """Yield, for each batch, the `top_k` likeliest entries of every prediction, in any order.

        With their log-probabilities at `temperature`; ids int32, (b, s, top_k).
        Only where this worker holds the whole model.
        """

    def activations(self, batch: Batch) -> tuple[list[float], float]:
        """Return the root mean square of each block's output, first to last, and the largest logit.

        Only where this worker holds the whole model.
        """

    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens after `prompt`; `choose` maps (vocab,) float32 logits to the next one.

        Workers that share a model all call this, with the same arguments; what rank 0 chooses counts.
        """

    def memory(self) -> dict[str, int]:
        """Return bytes under the names of metrics.jsonl.

        `memory_bytes`, the peak since an engine last loaded parameters here (the whole process's, on devices that don't
        record one); and, where known, `memory_active_bytes` in use now and `memory_cache_bytes` freed but kept for
        reuse. All are of this process on the device, with whatever other engines hold there.
        """
