"""Trackers: those who are told how a run goes, one after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lost.config import Config
from lost.errors import StorageError


class Tracker:
    """Someone who is told how a run goes. A subclass takes what it cares for.

    Rows are those that go to metrics.jsonl.
    """

    def begin(self, step: int) -> None:
        """Begin after a step; what was reported of later ones, by an earlier life of the run, is void."""

    def phase(self, name: str) -> None:
        """Take what the run begins to do, in words: `training`, or what holds the training up."""

    def advance(self, step: int) -> None:
        """Take a step, as each is taken; an accelerator may still be computing it, so there are no numbers."""

    def step(self, row: dict[str, Any]) -> None:
        """Take a reported step."""
        self.row(row)

    def validation(self, row: dict[str, Any]) -> None:
        """Take a validation."""
        self.row(row)

    def measurement(self, row: dict[str, Any]) -> None:
        """Take an inspection of the model, or its gradients' noise."""
        self.row(row)

    def samples(self, row: dict[str, Any]) -> None:
        """Take texts that the model wrote."""
        self.row(row)

    def checkpoint(self, row: dict[str, Any]) -> None:
        """Take a checkpoint that was written, or that could not be."""
        self.row(row)

    def row(self, row: dict[str, Any]) -> None:
        """Take any of these five, all of which come here unless a subclass takes them itself."""

    def message(self, text: str) -> None:
        """Take a sentence."""

    def failed(self) -> None:
        """Take that the training ended by an error; it's closed next."""

    def close(self) -> None:
        """Write what is still to be written: the training has ended, however it did."""


Factory = Callable[[Path, Config, dict[str, Any]], Tracker]
"""Makes the tracker that a configuration names, of the run folder, the configuration and the tracker's own settings; a
ConfigError says where these don't suit it. It writes nothing yet: it's also made to see whether it can be. Only rank 0
has one, and what it raises later never ends a training."""


class Trackers(Tracker):
    """Several trackers as one.

    Args:
        needed: those whose errors are the run's: its screen, its own files.
        others: by name, those that it can do without. One that fails is left out from then on, which is said once.
        refused: told what the disk refused to one of the needed, once they have begun; by default that is raised.
    """

    def __init__(
        self,
        *needed: Tracker,
        others: Mapping[str, Tracker] = MappingProxyType({}),
        refused: Callable[[StorageError], None] | None = None,
    ) -> None:
        self._needed, self._others, self._refused = needed, dict(others), refused

    def begin(self, step: int) -> None:
        """Begin after a step; where a needed one can't, neither can the run."""
        for each in self._needed:
            each.begin(step)
        self._tell_others("begin", step)

    def phase(self, name: str) -> None:
        """Pass on what the run begins to do."""
        self._tell("phase", name)

    def advance(self, step: int) -> None:
        """Pass a step on."""
        self._tell("advance", step)

    def step(self, row: dict[str, Any]) -> None:
        """Pass a reported step on."""
        self._tell("step", row)

    def validation(self, row: dict[str, Any]) -> None:
        """Pass a validation on."""
        self._tell("validation", row)

    def measurement(self, row: dict[str, Any]) -> None:
        """Pass a measurement on."""
        self._tell("measurement", row)

    def samples(self, row: dict[str, Any]) -> None:
        """Pass samples on."""
        self._tell("samples", row)

    def checkpoint(self, row: dict[str, Any]) -> None:
        """Pass a checkpoint on."""
        self._tell("checkpoint", row)

    def message(self, text: str) -> None:
        """Pass a sentence on."""
        self._tell("message", text)

    def failed(self) -> None:
        """Pass on that the training failed."""
        self._tell("failed")

    def close(self) -> None:
        """Close all of them."""
        self._tell("close")

    def _tell(self, event: str, *value: Any) -> None:
        for each in self._needed:
            try:
                getattr(each, event)(*value)
            except StorageError as error:
                if self._refused is None:
                    raise
                self._refused(error)
        self._tell_others(event, *value)

    def _tell_others(self, event: str, *value: Any) -> None:
        for name, each in list(self._others.items()):
            try:
                getattr(each, event)(*value)
            except Exception as error:  # whatever a library of someone else's raises
                del self._others[name]
                reason = f"{type(error).__name__}: {error}"
                self.message(f"tracking.{name} failed ({reason}); the training goes on without it")
