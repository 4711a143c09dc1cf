"""The registry of backends: resolving names, importing backends, making engines."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from lost.config import Config
from lost.engine.backend import Backend
from lost.engine.base import Engine
from lost.errors import BackendError
from lost.utils.machine import on_apple_silicon

# Each backend with the packages to install. MLX's plain package has no CPU library on Linux.
BACKENDS = {"torch": "torch", "mlx": "mlx mlx-lm" if sys.platform == "darwin" else "'mlx[cpu]' mlx-lm"}


def backend_module(name: str) -> Backend:
    """Import a backend.

    Raises:
        BackendError: no such backend, or its framework is missing, old or broken; with the command that fixes it.
    """
    if name not in BACKENDS:
        raise BackendError(f"--backend {name}: no such backend; expected one of auto, {', '.join(BACKENDS)}")
    try:
        return cast(Backend, import_module(f"lost.backends.{name}"))
    except (ImportError, OSError, AttributeError) as error:  # or a library, or half of an install, is missing
        reason = " ".join(str(error).split())
        raise BackendError(
            f"the {name} backend can't be loaded: {reason}; expected a working {name}; install it with: "
            f"pip install --upgrade {BACKENDS[name]}"
        ) from None


def implementation(key: str, name: str, where: Mapping[str, str], backend: str) -> Any:
    """Import a backend's implementation of a registered name.

    Args:
        key: of the configuration, for messages.
        name: the chosen value.
        where: `module:Class` by backend.
        backend: the backend's name.

    Raises:
        BackendError: the backend has no implementation, or it can't be imported.
    """
    module, _, attribute = where.get(backend, "").partition(":")
    if not module:
        others = ", ".join(where) or "no backend"
        raise BackendError(
            f"{key} = {name}: the {backend} backend doesn't implement it; expected one that does ({others}); choose "
            "another"
        )
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"{key} = {name}: {where[backend]} can't be imported: {error}; fix the extension") from None


def resolve_backend(name: str) -> str:
    """Return the backend meant by a name.

    `auto`: MLX on Apple silicon, but under torchrun PyTorch; else PyTorch (on CUDA where there is one, else CPU), else
    whichever is installed.
    """
    if name != "auto":
        return name
    order = ("mlx", "torch") if on_apple_silicon() and "TORCHELASTIC_RUN_ID" not in os.environ else ("torch", "mlx")
    packages = {"mlx": "mlx.core", "torch": "torch"}
    return next((each for each in order if _installed(packages[each])), order[0])


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def inference_config(config: Config) -> Config:
    """Return a configuration for evaluation and generation, where compilation and the optimizer don't matter.

    Compilation pays off only where one shape is used many times; not every backend has every optimizer, or is
    deterministic.
    """
    return config.replace("train", compile=False, deterministic=False).replace("optimizer", name="adamw")


def create_engine(config: Config, backend: str = "auto", device: str = "auto") -> Engine:
    """Make an engine with the given backend on the given device; `auto` takes the best available."""
    return backend_module(resolve_backend(backend)).create(config, device)
