"""Facts about this machine from the operating system, without any framework."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

_THREADS_WAIT = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}


def sleep_at_barriers() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the user said how they should wait.

    By default they spin, and where another process wants the cores, that keeps the thread waited for from running:
    training is then several times slower (benchmarks/results/busy_machine.md). How many threads there are, and so
    every sum, stays the same. To be called before PyTorch is imported, which reads this once.
    """
    if not _THREADS_WAIT & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the machine's total memory, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Return the memory that processes can still take; half of the total where the system doesn't report it."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return available[0] if available else memory_bytes() // 2


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
