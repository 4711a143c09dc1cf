"""Facts about this machine from the operating system, without any framework."""

import math
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
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


def on_apple_silicon() -> bool:
    """Return whether this is a Mac whose graphics processor MLX can use."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def may_have_accelerator() -> bool:
    """Return whether a framework may find another device than the processor: a driver is there, or this is a Mac."""
    return sys.platform == "darwin" or any(Path("/dev", driver).exists() for driver in _DRIVERS)


def memory_bytes() -> int:
    """Return the machine's total memory, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Return the memory that processes can still take; half of the total where nothing tells it.

    Linux tells it in /proc, macOS to psutil.
    """
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

    A shell of macOS starts programs with 256, and a prepared set's shards are all open at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a system's own limit, below what it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
