"""The seam: what the core asks of a backend. One optimizer step crosses it, never an array operation."""

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from lost.config import Config
from lost.data.loader import Batch
from lost.errors import BackendError
from lost.model.parameters import parameter_table
from lost.optim.skip_step import Guard
from lost.storage.arrays import NamedArrays
from lost.workers import Workers

# Each backend with what installs it. MLX's plain package has no CPU library on Linux.
BACKENDS = {"torch": "torch", "mlx": "mlx mlx-lm" if sys.platform == "darwin" else "'mlx[cpu]' mlx-lm"}
MOMENTS = ("exp_avg", "exp_avg_sq")
SCALE = "exp_avg_scale"
BLOCK = 256  # entries that share a scale where moments are kept in 8 bits


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
        """Take the arrays that `moment_shapes` lists, as they were after so many updates."""

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield its rows of the moments, named as `load_optimizer_state` takes them; nothing before the first step."""

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepReport:
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


def moment_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that an optimizer keeps, by name: the moments of each trained parameter.

    Where moments are kept in 8 bits, also the scales of the first ones (float32, one a block): those of the second can
    be read off the values, but the 8-bit map has no -1, so that a block whose largest entry is negative hides its own.
    """
    trained = {name: row for name, row in parameter_table(config).items() if row.trained}
    shapes = {f"{name}.{moment}": row.shape for name, row in trained.items() for moment in MOMENTS}
    if config.optimizer.name == "adamw8bit":
        shapes |= {f"{name}.{SCALE}": (row.size // BLOCK,) for name, row in trained.items() if in_blocks(row.size)}
    return shapes


def in_blocks(size: int) -> bool:
    """Whether adamw8bit keeps the moments of a parameter of this many entries in 8 bits: torchao's rule."""
    return size >= 4096 and size % BLOCK == 0


def backend_module(name: str) -> Any:
    """Import a backend: a module with these functions.

    `create(config, device, workers)`, an Engine; `available()`, the devices that work here, the fastest first;
    `resolve(name)`, a device; `capacity(device)`, its memory in bytes; `join()`, the workers that this process is one
    of; `input_moments(engine, batches, names)`, for a decomposition that is weighted by what layers read. And a module
    `bench`, which implements `lost.bench.Bench`.

    Raises:
        BackendError: no such backend, or its framework is missing, old or broken, with the command that mends it.
    """
    if name not in BACKENDS:
        raise BackendError(f"--backend {name}: no such backend; expected one of auto, {', '.join(BACKENDS)}")
    try:
        return import_module(f"lost.backends.{name}")
    except (ImportError, OSError, AttributeError) as error:  # OSError: a library it needs; AttributeError: half of it
        reason = " ".join(str(error).split())
        raise BackendError(
            f"the {name} backend can't be loaded: {reason}; expected a working {name}; install it with: "
            f"pip install --upgrade {BACKENDS[name]}"
        ) from None


def resolve_backend(name: str) -> str:
    """Return the backend meant by a name.

    `auto`: MLX on Apple silicon, else PyTorch (on CUDA where there is one, else CPU), else whichever is installed.
    """
    if name != "auto":
        return name
    on_apple_silicon = sys.platform == "darwin" and platform.machine() == "arm64"
    order = ("mlx", "torch") if on_apple_silicon else ("torch", "mlx")
    packages = {"mlx": "mlx.core", "torch": "torch"}
    return next((each for each in order if _installed(packages[each])), order[0])


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent isn't there
        return False


def for_use(config: Config) -> Config:
    """Return a configuration without what only training needs, be it on this machine or not.

    Compiling pays off for one shape that is met many times, and not every backend has every optimizer.
    """
    return config.replace("train", compile=False).replace("optimizer", name="adamw")


def create_engine(config: Config, backend: str = "auto", device: str = "auto") -> Engine:
    """Make an engine with the given backend on the given device; `auto` takes the best there is."""
    return backend_module(resolve_backend(backend)).create(config, device)
