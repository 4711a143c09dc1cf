"""The seam between the core and the frameworks: what an engine does, and who makes one."""

from lost.engine.base import Engine, StepReport
from lost.engine.registry import BACKENDS, backend_module, create_engine, for_use, resolve_backend

__all__ = ["BACKENDS", "Engine", "StepReport", "backend_module", "create_engine", "for_use", "resolve_backend"]
