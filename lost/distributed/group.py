"""The processes that train one model together: who writes, what all agree on, which sequences are whose."""

import json
import os
from typing import Protocol

from lost import __version__
from lost.config import Config
from lost.errors import BackendError, ConfigError

# What launchers set in the environment of each process: the number of processes, or (MLX) this one's among them.
_LAUNCHERS = {"MLX_RANK": "mlx.launch", "WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "mpirun"}


class Workers(Protocol):
    """The processes of a run, this one among them. Every method must be called by all of them, in the same order.

    Where one of them is gone, a method raises WorkerLostError.

    Attributes:
        rank: this one's number, from 0. Rank 0 decides and speaks.
        world_size: how many there are.
        num_readers: how many of them, counted from rank 0, read and write the run folder. Where each holds a copy of
            the model it is rank 0 alone, and the others get everything from it.
        sigterm_asks: whether SIGTERM asks for a save. Else it ends this process at once: it is what the launcher sends
            when another has failed, for which this one might wait forever.
    """

    rank: int
    world_size: int
    num_readers: int
    sigterm_asks: bool

    def broadcast(self, text: str) -> str:
        """Return rank 0's text, whatever the others passed."""

    def any(self, flag: bool) -> bool:
        """Say whether the flag is up on any of them."""

    def all_reduce(self, value: float) -> float:
        """Return the sum over all, in float64 and the same everywhere."""

    def all_gather(self, text: str) -> list[str]:
        """Return everyone's text, by rank."""

    def close(self) -> None:
        """Part in good order, once there is nothing more to do together."""


class SingleProcess:
    """One process that has everything to itself."""

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
    """Return this process alone.

    Raises:
        BackendError: a launcher started several, which would all write to one run folder.
    """
    for variable, launcher in _LAUNCHERS.items():
        value = os.environ.get(variable)
        if value is not None and (variable == "MLX_RANK" or value != "1"):
            raise BackendError(
                f"{variable} = {value}: {launcher} started several processes, and this backend doesn't train under it; "
                "start it without, or use --backend torch under torchrun, or --backend mlx under "
                "mlx.launch --backend ring"
            )
    return SingleProcess()


def agree(workers: Workers, config: Config, data: str, backend: str) -> None:
    """See that every worker would do the same, before any of them does anything.

    Args:
        workers: all of them call this.
        config: the run; where its data stands may differ.
        data: fingerprint of the prepared set.
        backend: which computes.

    Raises:
        ConfigError: one of them differs from rank 0, and in what.
    """
    own = {
        "version of lost": __version__,
        "backend": backend,
        "configuration": config.replace("data", path=None, mixture=None).model_dump(mode="json"),
        "prepared data": data,
    }
    shared = json.loads(workers.broadcast(json.dumps(own)))
    differing = [name for name, value in json.loads(json.dumps(own)).items() if value != shared[name]]
    if workers.any(bool(differing)):
        here = f"the {' and the '.join(differing)} here (rank {workers.rank}) differ from rank 0's" if differing else ""
        raise ConfigError(
            f"the workers of this run don't agree: {here or 'another rank differs from rank 0, and says in what'}; "
            "expected the same command, files and data on every machine; copy them from the first"
        )


def local_batch_size(config: Config, count: int) -> tuple[int, int]:
    """Return (sequences a step, sequences in memory at once) of one of `count` workers.

    Raises:
        ConfigError: the batch can't be divided.
    """
    train = config.train
    own = train.batch_size // count
    micro = train.micro_batch_size or max(own, 1)
    if train.batch_size % count or own % micro:
        raise ConfigError(
            f"train.batch_size = {train.batch_size}, train.micro_batch_size = {train.micro_batch_size}: they don't "
            f"divide over {count} workers; expected a batch of workers x micro-batches; change one of them"
        )
    return own, micro


def model_shards(config: Config, count: int) -> int:
    """Return how many of `count` PyTorch workers hold one copy of the model together.

    Raises:
        ConfigError: they can't form `train.replicas` groups.
    """
    if count % config.train.replicas:
        raise ConfigError(
            f"train.replicas = {config.train.replicas}: {count} workers can't form so many equal groups; expected "
            "a divisor of their number; change one of them"
        )
    return count // config.train.replicas
