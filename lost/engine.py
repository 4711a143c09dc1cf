"""The seam: what the core asks of a backend. One optimizer step crosses it, never an array operation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from lost.batches import Batch
from lost.config import Config
from lost.errors import BackendError

BACKENDS = ("torch",)
NamedArrays = Iterable[tuple[str, np.ndarray]]
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did, still on the device: reading it waits for the device, so read it to report only.

    Attributes:
        read: returns (mean loss over the step's predictions, L2 norm of all gradients before clipping).
    """

    read: Callable[[], tuple[float, float]]


class Engine(Protocol):
    """A model on a device, able to train and to be asked.

    Arrays that cross are numpy: float32, bfloat16 (ml_dtypes) or int32, under the names of the parameter table.
    """

    device: str

    def load(self, parameters: NamedArrays) -> None:
        """Take every parameter; a missing, unknown or misshapen one is a CheckpointError."""

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter; the arrays may be views, valid until the next step."""

    def load_optimizer_state(self, moments: NamedArrays, step: int) -> None:
        """Take `<name>.exp_avg` and `<name>.exp_avg_sq` of every trained parameter, as they were after `step`."""

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments, named as `load_optimizer_state` takes them; nothing before the first step."""

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepReport:
        """Do one optimizer step on the mean loss over `predictions`, the count over all micro-batches."""

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed negative log-likelihood in nats, number of predictions counted)."""

    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens after `prompt`; `choose` maps (vocab,) float32 logits to the next one."""

    def memory(self) -> int:
        """Return the peak of the device's memory in bytes since the engine was made (on CPU, the process's peak)."""


def backend_module(name: str) -> Any:
    """Import a backend.

    Raises:
        BackendError: no such backend, or its framework is missing or broken, with the command that adds it.
    """
    if name not in BACKENDS:
        raise BackendError(f"--backend {name}: no such backend; expected one of auto, {', '.join(BACKENDS)}")
    try:
        return import_module(f"lost.backends.{name}")
    except ImportError as error:
        raise BackendError(f"the {name} backend can't be loaded: {error}; add it with: pip install {name}") from None


def resolve_backend(name: str) -> str:
    """Return the backend meant by a name; `auto` is the best one here."""
    return BACKENDS[0] if name == "auto" else name


def create_engine(config: Config, backend: str = "auto", device: str = "auto") -> Engine:
    """Make an engine with the given backend on the given device; `auto` takes the best there is."""
    return backend_module(resolve_backend(backend)).create(config, device)
