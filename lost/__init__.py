"""LOST: pre-training language models with low-rank plus sparse layers (arXiv 2508.02668).

The names below are imported when first used, so that `import lost` costs nothing and never loads a framework.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOME = {
    "Factors": "lost.method.decompose",
    "decompose": "lost.method.decompose",
    "compose": "lost.method.decompose",
    "Config": "lost.config",
    "load_config": "lost.model.load",
    "LostError": "lost.errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'lost' has no attribute {name!r}")
