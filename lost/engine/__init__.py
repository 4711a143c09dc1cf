"""The seam between the core and the frameworks: the interface of an engine, and the registry of backends."""

from lost.engine.backend import Backend
from lost.engine.base import Engine, StepResult
from lost.engine.registry import BACKENDS, backend_module, create_engine, inference_config, resolve_backend

__all__ = [
    "BACKENDS",
    "Backend",
    "Engine",
    "StepResult",
    "backend_module",
    "create_engine",
    "inference_config",
    "resolve_backend",
]
