"""Which devices PyTorch sees here, and how much memory each has. The only file that asks."""

import re
import resource
import sys

import torch

from lost.errors import BackendError
from lost.machine import memory_bytes


def resolve(name: str) -> torch.device:
    """Return the device meant by `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        BackendError: it isn't here, with what is.
    """
    if name == "auto":
        return torch.device(available()[0])
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if match is None:
        raise BackendError(f"--device {name}: PyTorch devices are auto, cpu, cuda, cuda:N and mps; name one of these")
    kind, number = match.groups()
    if kind not in available():
        raise BackendError(
            f"--device {name}: PyTorch {torch.__version__} sees no such device here; available: "
            f"{', '.join(available())}; choose one of these, or install a PyTorch built for the device"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise BackendError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device(name)


def available() -> list[str]:
    """Return the kinds of device that work here, the fastest first."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, works in kinds.items() if works]


def capacity(device: torch.device) -> int:
    """Return the memory of a device in bytes, all of it: what is in use isn't subtracted."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return memory_bytes()


def peak(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: allocated on CUDA, the process's on CPU.

    MPS counts no peak: there, what the driver holds now, which seldom shrinks.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units
