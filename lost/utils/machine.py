"""Facts about this machine and this process from the operating system, without any framework."""

import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_MEMORY_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_MEMORY_V2 = ("memory.max", "memory.current", "inactive_file")
_MEMINFO = Path("/proc/meminfo")
_OPEN_FILES = 10240  # the most that macOS grants
_DRIVERS = ("nvidiactl", "nvmap", "kfd", "dxg")  # of CUDA, on a Jetson too; of ROCm; of CUDA under Windows


def cores() -> int:
    """Return how many processor cores this process may use: by its affinity, and by its container's quota."""
    quota = _quota()
    return processors() if quota == math.inf else min(processors(), max(1, math.ceil(quota)))


def processors() -> int:
    """Return how many processors this process may run on, all of which libraries count on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float:
    """Return how many processors' time the control group allows; infinity without a limit (cgroup v2, then v1)."""
    try:
        if (file := _CGROUP / "cpu.max").exists():
            time, period = file.read_text().split()
        else:
            time, period = ((_CGROUP / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(time) / float(period) if float(time) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # v2 writes "max" where there is no limit
        return math.inf


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield the limits on the memory of the control groups that this process is in, and what is in use of each.

    Those that it sees: in a container its own is the root. What files keep in memory counts as free: it makes way.
    """
    for line in _OWN_GROUPS.read_text().splitlines() if _OWN_GROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if "memory" not in controllers.split(",") and controllers:
            continue
        root, (most, now, files) = (_CGROUP / "memory", _MEMORY_V1) if controllers else (_CGROUP, _MEMORY_V2)
        own = root / path.lstrip("/")
        for group in {own, *(each for each in own.parents if each.is_relative_to(root))}:
            with suppress(OSError, ValueError, KeyError):  # v2 writes "max" where there is no limit
                limit, used = (int((group / name).read_text()) for name in (most, now))
                counts = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                yield limit, used - int(counts[files])


def on_apple_silicon() -> bool:
    """Return whether this is a Mac whose graphics processor MLX can use."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def may_have_accelerator() -> bool:
    """Return whether a framework may find another device than the processor: a driver is there, or this is a Mac."""
    return sys.platform == "darwin" or any(Path("/dev", driver).exists() for driver in _DRIVERS)


def memory_bytes() -> int:
    """Return the machine's total memory, used or not, or what its container may use."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(limit for limit, _ in _memory_limits())])


def available_bytes() -> int:
    """Return the memory that this process can still take, in its container; half of all where nothing tells it.

    Linux tells it in /proc, macOS to psutil.
    """
    return min([_free_bytes(), *(max(0, limit - used) for limit, used in _memory_limits())])


def _free_bytes() -> int:
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    if available:
        return available[0]
    try:
        import psutil
    except ImportError:
        return memory_bytes() // 2
    return psutil.virtual_memory().available


def allow_open_files() -> None:
    """Raise the number of files that this process may have open, as far as its user may.

    A shell of macOS starts programs with 256. Shards take at most a quarter of these (`lost.data.shards`), also in a
    program that uses lost as a library and doesn't raise them; the rest is pipes to workers and what libraries open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a system's own limit, below what it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def rank() -> str:
    """Return the number of this process among its launcher's: torchrun's, mlx.launch's, mpirun's; without one "0"."""
    return next(filter(None, map(os.environ.get, ("RANK", "MLX_RANK", "OMPI_COMM_WORLD_RANK"))), "0")


def process_peak_bytes() -> int:
    """Return the most memory that this process has held."""
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units


def processor_name() -> str:
    """Return the processor's name, or its architecture where the system doesn't report the name."""
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
