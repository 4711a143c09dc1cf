"""The PyTorch backend: CPU, CUDA, MPS."""

from lost.backends.torch.calibration import input_moments
from lost.backends.torch.devices import available, capacity, resolve, wire
from lost.backends.torch.distributed.group import join
from lost.backends.torch.engine import TorchEngine as create
from lost.backends.torch.lostify import lostify

__all__ = ["available", "capacity", "create", "input_moments", "join", "lostify", "resolve", "wire"]
