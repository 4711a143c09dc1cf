"""Devices that MLX sees here, and their memory.

Calls that need a Mac are guarded by a check; none was tried on one. What is and isn't verified: docs/mac.md.
"""

from importlib.metadata import version

import mlx.core as mx

from lost.distributed.launcher import local_rank
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
    return [*(["gpu"] if mx.is_available(named("gpu")) else []), "cpu"]


def capacity(device: str) -> int:
    """Return the memory in bytes that a run may take: this process's share of the device's, used or not.

    On a GPU, of the system's recommended limit (about three quarters of a Mac's unified memory); else of all.
    """
    told = mx.device_info(named(device)) if device == "gpu" else {}  # that of NVIDIA's has other names
    whole = told.get("max_recommended_working_set_size") or told.get("total_memory") or memory_bytes()
    return int(whole) // local_rank()[1]


def named(device: str) -> mx.Device:
    """Return the device that `resolve` named."""
    return mx.Device(mx.gpu if device == "gpu" else mx.cpu)


def use(device: str) -> None:
    """Make a device the default, for the whole process."""
    mx.set_default_device(named(device))


def begin(cache_bytes: int) -> None:
    """Limit the memory that MLX keeps for reuse, and begin the peak of `memory` anew, both for the whole process."""
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
            f"--wired-gib {size / 2**30:.1f}: macOS recommends at most {capacity('gpu') / 2**30:.1f} for this process; "
            "lower it"
        )
    mx.set_wired_limit(size)


def memory() -> dict[str, int]:
    """Return bytes as `lost.engine.Engine.memory` names them."""
    return {
        "memory_bytes": mx.get_peak_memory(),
        "memory_active_bytes": mx.get_active_memory(),
        "memory_cache_bytes": mx.get_cache_memory(),
    }
