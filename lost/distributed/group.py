"""The group of processes that train one model together: communication, agreement, shares of the batch."""

import json
import os
from collections.abc import Mapping
from typing import Protocol

from lost import __version__
from lost.config import Config
from lost.errors import BackendError, ConfigError, WorkerLostError
from lost.utils.wording import counted

# Environment variables that launchers set in each process: the number of processes, or (MLX) this one's rank.
_LAUNCHERS = {"MLX_RANK": "mlx.launch", "WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "mpirun"}


class Workers(Protocol):
    """The processes of a run, as seen by one of them. All of them must call every method, in the same order.

    If another process is gone, methods raise WorkerLostError.

    Attributes:
        rank: this process's number, from 0. Rank 0 decides, and prints.
        world_size: number of processes.
        num_readers: number of processes, counted from rank 0, that read and write the run folder. Where each holds a
            copy of the model it is 1, and the others get everything from rank 0.
        sigterm_asks: whether SIGTERM requests a save. Otherwise it ends this process at once, because the launcher
            sends it when another process has failed, for which this one might wait forever.
    """

    rank: int
    world_size: int
    num_readers: int
    sigterm_asks: bool

    def broadcast(self, text: str) -> str:
        """Return rank 0's text on every rank."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""

    def all_reduce(self, value: float) -> float:
        """Return the sum over all ranks, in float64, identical everywhere."""

    def all_gather(self, text: str) -> list[str]:
        """Return every rank's text, in order."""

    def close(self) -> None:
        """Leave the group in an orderly way, once nothing more is done together."""


def lost_contact(workers: Workers) -> WorkerLostError:
    """Return the error of a worker whose communication with the others has failed."""
    return WorkerLostError(
        f"rank {workers.rank} of {workers.world_size} lost contact with another worker; nothing was saved since the "
        "last checkpoint; run the same command again to resume from it"
    )


class SingleProcess:
    """A group of one process."""

    rank, world_size, num_readers = 0, 1, 1
    sigterm_asks = True

    def broadcast(self, text: str) -> str:
        """Return the text."""
        return text

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def all_reduce(self, value: float) -> float:
        """Return the value."""
        return value

    def all_gather(self, text: str) -> list[str]:
        """Return the text."""
        return [text]

    def close(self) -> None:
        """Do nothing."""


def single_process() -> SingleProcess:
    """Return a group of this process alone.

    Stricter than `launcher.check_alone`: of several that trained apart, each would write to the same run folder. So
    a WORLD_SIZE counts without torchrun too.

    Raises:
        BackendError: a launcher started several.
    """
    for variable, launcher in _LAUNCHERS.items():
        value = os.environ.get(variable)
        if value is not None and (variable == "MLX_RANK" or value != "1"):
            raise BackendError(
                f"{variable} = {value}: {launcher} started several processes, and this backend can't train under it; "
                "start without it, or use --backend torch under torchrun, or --backend mlx under "
                "mlx.launch --backend ring"
            )
    return SingleProcess()


def agree(workers: Workers, config: Config, data: Mapping[str, str], backend: str) -> None:
    """Check that all workers have the same version, backend, configuration and data, before any of them starts.

    Args:
        workers: all of them call this.
        config: the run; the paths of its data and of a teacher may differ.
        data: fingerprints of the prepared sets, by name.
        backend: its name.

    Raises:
        ConfigError: a worker differs from rank 0; it says in what.
    """
    shown = config.replace("data", path=None, mixture=None, also_evaluate={}).replace("teacher", path=None)
    local = {
        "version of lost": __version__,
        "backend": backend,
        "configuration": shown.model_dump(mode="json"),
        "prepared data": dict(data),
    }
    shared = json.loads(workers.broadcast(json.dumps(local)))
    differing = [name for name, value in json.loads(json.dumps(local)).items() if value != shared[name]]
    if workers.any(bool(differing)):
        here = f"the {' and the '.join(differing)} here (rank {workers.rank}) differ from rank 0's" if differing else ""
        raise ConfigError(
            f"the workers of this run don't agree: {here or 'another rank differs from rank 0, and reports in what'}; "
            "expected the same command, files and data on every machine; copy them from the first"
        )


def local_batch_size(config: Config, count: int) -> tuple[int, int]:
    """Return (sequences a step, sequences in memory at once) of each of `count` workers.

    Raises:
        ConfigError: the batch can't be divided.
    """
    train = config.train
    local = train.batch_size // count
    micro = train.micro_batch_size if isinstance(train.micro_batch_size, int) else max(local, 1)
    if train.batch_size % count or local % micro:
        raise ConfigError(
            f"train.batch_size = {train.batch_size}, train.micro_batch_size = {train.micro_batch_size}: they don't "
            f"divide among {count} workers; expected a multiple of workers x micro_batch_size; change one of them"
        )
    return local, micro


def model_shards(config: Config, count: int) -> int:
    """Return how many of `count` PyTorch workers share one copy of the model.

    Raises:
        ConfigError: they can't form `train.replicas` groups.
    """
    if count % config.train.replicas:
        raise ConfigError(
            f"train.replicas = {config.train.replicas}: {counted(count, 'worker')} can't form that many equal groups; "
            "expected a divisor of their number; change one of them"
        )
    return count // config.train.replicas
