"""The processes that train one model together: who writes, what all agree on, which sequences are whose.

Only rank 0 touches the run folder; the others follow what it shares with them.
"""

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
    """

    rank: int
    count: int

    def share(self, text: str) -> str:
        """Return rank 0's text, whatever the others passed."""

    def any(self, flag: bool) -> bool:
        """Say whether the flag is up on any of them."""

    def total(self, value: float) -> float:
        """Return the sum over all, in float64 and the same everywhere."""


class Alone:
    """One process that has everything to itself."""

    rank, count = 0, 1

    def share(self, text: str) -> str:
        """Return the text."""
        return text

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def total(self, value: float) -> float:
        """Return the value."""
        return value


def join_alone() -> Alone:
    """Return this process alone.

    Raises:
        BackendError: a launcher started several, which would all write to one run folder.
    """
    for variable, launcher in _LAUNCHERS.items():
        value = os.environ.get(variable)
        if value is not None and (variable == "MLX_RANK" or value != "1"):
            raise BackendError(
                f"{variable} = {value}: {launcher} started several processes, and this backend trains in one; start it "
                "without, or use --backend mlx under mlx.launch --backend ring"
            )
    return Alone()


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
        "configuration": config.replace("data", path=None).model_dump(mode="json"),
        "prepared data": data,
    }
    shared = json.loads(workers.share(json.dumps(own)))
    differing = [name for name, value in json.loads(json.dumps(own)).items() if value != shared[name]]
    if workers.any(bool(differing)):
        here = f"the {' and the '.join(differing)} here (rank {workers.rank}) differ from rank 0's" if differing else ""
        raise ConfigError(
            f"the workers of this run don't agree: {here or 'another rank differs from rank 0, and says in what'}; "
            "expected the same command, files and data on every machine; copy them from the first"
        )


def shares(config: Config, count: int) -> tuple[int, int]:
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
