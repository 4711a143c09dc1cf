"""The MLX backend: Metal on Apple silicon; on Linux the CPU, for tests."""

from importlib.metadata import version

import mlx.core  # noqa: F401 - first, so that a missing library of its own is what is reported

from lost.utils.extras import version_of

_OLDEST = (0, 32, 2)

if version_of("mlx") < _OLDEST:
    raise ImportError(f"mlx {version('mlx')} is older than {'.'.join(map(str, _OLDEST))}")

from lost.backends.mlx.calibration import (  # noqa: E402
    input_moments,
    log_probabilities,
    squared_gradients,
    weight_gradients,
)
from lost.backends.mlx.devices import available, capacity, resolve, wire  # noqa: E402
from lost.backends.mlx.distributed.group import join  # noqa: E402
from lost.backends.mlx.engine import MlxEngine as create  # noqa: E402
from lost.backends.mlx.engine import check_generation  # noqa: E402
from lost.backends.mlx.lostify import lostify  # noqa: E402
from lost.backends.mlx.profiling import tracing  # noqa: E402

__all__ = [
    "available",
    "capacity",
    "check_generation",
    "create",
    "input_moments",
    "join",
    "log_probabilities",
    "lostify",
    "resolve",
    "squared_gradients",
    "tracing",
    "weight_gradients",
    "wire",
]
