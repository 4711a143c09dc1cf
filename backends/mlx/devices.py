"""Devices that MLX sees here, and their memory. The only file with calls that need a Mac.

Each is guarded by a check; none was tried on a Mac. What is and isn't verified: docs/mac.md.
"""

from importlib.metadata import version

import mlx.core as mx

from lost.errors import BackendError
from lost.utils.machine import memory_bytes


def resolve(name: str) -> str:
    """Return the device meant by `auto`, `cpu` or `gpu`.

    Raises:
        BackendError: it isn't available; the message names those that are.
    """
    if name == "auto":
        return available()[0]
    if name not in ("cpu", "gpu"):
        raise BackendError(f"--device {name}: MLX devices are auto, cpu and gpu; name one of these")
    if name not in available():
        raise BackendError(
            f"--device {name}: MLX {version('mlx')} sees no such device here; available: {', '.join(available())}; "
            "choose one of these (on a Mac, gpu needs Apple silicon)"
        )
    return name


def available() -> list[str]:
    """Return the devices that work here, the fastest first."""
    return [*(["gpu"] if mx.is_available(mx.Device(mx.gpu)) else []), "cpu"]


def capacity(device: str) -> int:
    """Return the memory in bytes that a run may take.

    On a GPU, the system's recommended limit (about three quarters of a Mac's unified memory); else all of it.
    """
    if device == "gpu":
        told = mx.device_info(mx.Device(mx.gpu))  # that of NVIDIA's has other names
        return int(told.get("max_recommended_working_set_size") or told.get("total_memory") or memory_bytes())
    return memory_bytes()


def prepare(device: str, cache_bytes: int) -> None:
    """Make a device the default, and limit the memory that MLX keeps for reuse."""
    mx.set_default_device(mx.Device(mx.gpu if device == "gpu" else mx.cpu))
    mx.set_cache_limit(cache_bytes)
    mx.reset_peak_memory()


def wire(size: int, device: str) -> None:
    """Have macOS keep up to `size` bytes of this process's arrays resident, whatever else needs memory.

    Raises:
        BackendError: more than the system recommends, or it isn't Metal that computes.
    """
    if device != "gpu" or not mx.metal.is_available():
        raise BackendError("--wired-gib: only Metal can wire memory, and it isn't what computes here; leave it out")
    if size > capacity("gpu"):
        raise BackendError(
            f"--wired-gib {size / 2**30:.1f}: this Mac recommends at most {capacity('gpu') / 2**30:.1f}; lower it"
        )
    mx.set_wired_limit(size)


def memory() -> dict[str, int]:
    """Return bytes as `lost.engine.Engine.memory` names them."""
    return {
        "memory_bytes": mx.get_peak_memory(),
        "memory_active_bytes": mx.get_active_memory(),
        "memory_cache_bytes": mx.get_cache_memory(),
    }
