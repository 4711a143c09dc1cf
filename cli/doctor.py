"""`lost doctor`: what is installed, which devices work, what is missing."""

from importlib import metadata
from typing import Any

import typer

from lost.cli.options import AsJson

_PACKAGES = ("torch", "numpy", "scipy", "safetensors", "sentencepiece", "pydantic")


def doctor(as_json: AsJson = False) -> None:
    """Report what works on this machine.

    What is installed, which devices work, what is missing and the command that adds it.
    """
    import os
    import platform

    from lost import __version__
    from lost.cli.output import answer, size
    from lost.engine import BACKENDS, backend_module
    from lost.errors import BackendError
    from lost.machine import memory_bytes

    memory = memory_bytes()
    backends: dict[str, Any] = {}
    for name in BACKENDS:
        try:
            module = backend_module(name)
            backends[name] = {
                "works": True,
                "devices": {kind: module.capacity(module.resolve(kind)) for kind in module.available()},
            }
        except BackendError as error:
            backends[name] = {"works": False, "reason": str(error)}
    works = any(entry["works"] for entry in backends.values())
    value = {
        "lost": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory,
        "packages": {name: _version(name) for name in _PACKAGES},
        "backends": backends,
        "ready": works,
    }
    lines = [
        f"lost {__version__}, Python {value['python']}, {value['platform']}, {os.cpu_count()} CPUs, {size(memory)}",
        "packages: " + ", ".join(f"{name} {_version(name) or '-'}" for name in _PACKAGES),
    ]
    for name, entry in backends.items():
        if entry["works"]:
            devices = ", ".join(f"{kind} ({size(room)})" for kind, room in entry["devices"].items())
            lines.append(f"backend {name}: works; devices, the fastest first: {devices}")
        else:
            lines.append(f"backend {name}: {entry['reason']}")
    lines.append("ready to train" if works else "no backend works: nothing can be trained yet")
    answer(as_json, value, lines)
    if not works:
        raise typer.Exit(1)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
