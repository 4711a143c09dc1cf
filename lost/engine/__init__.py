"""The seam between the core and the frameworks: what an engine does, and who makes one."""

from lost.engine.base import Engine, StepResult
from lost.engine.registry import BACKENDS, backend_module, create_engine, inference_config, resolve_backend

__all__ = ["BACKENDS", "Engine", "StepResult", "backend_module", "create_engine", "inference_config", "resolve_backend"]
