"""Optional packages: imported where they are used, with an error that names the extra to install; their versions."""

import re
from importlib import import_module, metadata
from types import ModuleType

from lost.errors import MissingPackageError


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: its import name.
        extra: of this distribution, that includes it.
        what: what it is needed for; the subject of the message.

    Raises:
        MissingPackageError: it isn't installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs the package {module.partition('.')[0]}: {error}; install it, in the clone, with: "
            f"{installation(extra)}"
        ) from None


def version_of(package: str) -> tuple[int, ...]:
    """Return the first three numbers of an installed package's version.

    Raises:
        PackageNotFoundError: it isn't installed.
    """
    return tuple(map(int, re.findall(r"\d+", metadata.version(package))[:3]))


def installation(extra: str) -> str:
    """Return the command that adds an extra, in the clone: by its name on an index a stranger's package would come."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"
