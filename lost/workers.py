"""The processes that train one model together: who writes, what all agree on, which sequences are whose.

Only rank 0 touches the run folder; the others follow what it shares with them.
"""

from typing import Protocol

from lost.config import Config
from lost.errors import ConfigError


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
