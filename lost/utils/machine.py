"""Facts about this machine from the operating system, without any framework."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}
_SPINS = 2000  # of libgomp's loop, a few microseconds; its own default is 300,000


def shorten_spinning() -> None:
    """Let OpenMP's threads sleep soon when they wait for each other, unless the user has set how they wait.

    While they spin beside another busy process, the thread that is waited for may have no core to run on. So short a
    time of spinning costs nothing measurable on a quiet machine, where not spinning at all costs a sixth
    (benchmarks/results/busy_machine.md). The number of threads, and so every sum, stays the same. To be called before
    PyTorch is imported: its library, libgomp on Linux, reads this once.
    """
    if not _WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)


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
