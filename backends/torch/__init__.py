"""The PyTorch backend: CPU, CUDA, MPS."""

import os
import sys

# Segments that grow leave fewer gaps on CUDA. PyTorch reads this when it is imported; the second name is the older one.
if sys.platform == "linux" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"

from lost.backends.torch.calibration import (
    input_moments,
    log_probabilities,
    squared_gradients,
    weight_gradients,
)
from lost.backends.torch.devices import available, capacity, check_generation, resolve, wire
from lost.backends.torch.distributed.group import join
from lost.backends.torch.engine import TorchEngine as create
from lost.backends.torch.lostify import lostify
from lost.backends.torch.profiling import tracing

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
