"""Registries of the names that a configuration may choose from: one for each kind of choice.

The rooms that implement them register theirs under `KINDS`; so does an extension, a package of its own, either by

    KINDS["toy"] = Toy

before a configuration is read, or by an entry point of the group `lost.extensions` whose module does that: entry points
are loaded when a name isn't known, so that commands which need none pay nothing for them.
"""

from importlib.metadata import entry_points
from typing import Any, TypeVar

from lost.errors import ConfigError
from lost.utils.wording import did_you_mean

T = TypeVar("T")
_GROUP = "lost.extensions"


class Registry(dict[str, T]):
    """The options of one configuration key, by name.

    Args:
        key: such as `projection.kind`.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def __missing__(self, name: str) -> T:
        load_extensions()
        if name in self:
            return self[name]
        known = f"{did_you_mean(name, self)}known are {', '.join(self) or 'none'}"
        raise ConfigError(f"{self.key} = {name!r}: no such option; {known}")

    def check(self, name: str) -> str:
        """Return the name if it is known, or if nothing is registered yet.

        Raises:
            ValueError: it isn't known; worded for a configuration's message.
        """
        if self:
            try:
                self[name]
            except ConfigError as error:
                raise ValueError(str(error).partition(": ")[2]) from None
        return name


def load_extensions() -> None:
    """Import the modules of all installed entry points; each registers its options."""
    for each in entry_points(group=_GROUP):
        each.load()


PROJECTIONS: Registry[Any] = Registry("projection.kind")
OPTIMIZERS: Registry[Any] = Registry("optimizer.name")
SCHEDULES: Registry[Any] = Registry("schedule.name")
TRACKERS: Registry[Any] = Registry("tracking")
