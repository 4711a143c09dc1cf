"""The interface of a backend, the package `lost.backends.NAME`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.distributed.group import Workers
from lost.engine.base import Engine


class Backend(Protocol):
    """The functions of a backend; it also has a module `bench`, which implements `lost.bench.compare.Bench`."""

    def create(self, config: Config, device: str = "auto", workers: Workers | None = None) -> Engine:
        """Make an engine.

        Args:
            config: the run, its vocabulary known.
            device: as the backend names it.
            workers: what `join` returned; None: this process alone.

        Raises:
            BackendError: the device isn't available, or doesn't support the configuration.
        """

    def available(self) -> list[str]:
        """Return the devices that work here, the fastest first."""

    def resolve(self, name: str) -> str:
        """Return the device meant by a name, which may be `auto`.

        Raises:
            BackendError: it isn't available; the message names those that are.
        """

    def capacity(self, device: str) -> int:
        """Return the memory of a device in bytes that this process may take: its share, where several use the same."""

    def join(self, device: str = "auto") -> Workers:
        """Return the group of processes that this one belongs to.

        Args:
            device: this process's.

        Raises:
            BackendError: they can't be reached.
        """

    def check_generation(self) -> None:
        """Check that what engines generate with is here.

        Raises:
            BackendError: it isn't installed.
        """

    def wire(self, size: int, device: str) -> None:
        """Keep up to `size` bytes of this process's arrays on a device from being paged out.

        Raises:
            UserError: this backend or device can't.
        """

    def tracing(self, device: str) -> Callable[[Path], AbstractContextManager[Path]]:
        """Return what traces computations; given a path without a suffix, it yields what is written when it ends.

        Raises:
            BackendError: this device has no trace.
        """

    def input_moments(self, engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the mean of x x^T over the inputs x (in,) of each named projection, (in, in) float64."""

    def weight_gradients(self, engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the gradient of the mean loss for the weight of each named dense projection, (out, in) float32.

        No other gradients are computed, and the engine doesn't train from then on.
        """

    def squared_gradients(self, engine: Engine, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
        """Return, for each trained parameter, the mean over batches of their mean loss's squared gradient, float32."""

    def log_probabilities(self, engine: Engine, tokens: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of entries (b, s, n) int32 after each of tokens (b, s), float32, natural log."""
