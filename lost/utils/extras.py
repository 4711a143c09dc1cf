"""Packages that only some users need: imported where they are used, named with the extra that brings them."""

from importlib import import_module
from types import ModuleType

from lost.errors import MissingPackageError


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: its import name.
        extra: of this distribution, that brings it.
        what: what it is needed for, the subject of the message.

    Raises:
        MissingPackageError: it isn't installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{what} takes the package {module.partition('.')[0]}: {error}; install it with: "
            f"pip install 'lost-pretrain[{extra}]'"
        ) from None
