"""Threads of a CPU's libraries: how many, and how they wait. To be set before a framework is imported."""

import os
import sys

from lost.utils.machine import cores, processors

_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}
_SPINS = 2000  # of libgomp's loop, a few microseconds; its own default is 300,000


def use_threads(number: int | None) -> None:
    """Have PyTorch and every BLAS compute with this many threads.

    Args:
        number: None: the libraries decide, as the environment says or by the number of processors; but not more than a
            container's quota, of which they don't know.
    """
    if number is None:
        if cores() == processors() or any(name in os.environ for name in _NUMBERS):
            return
        number = cores()
    os.environ.update(dict.fromkeys(_NUMBERS, str(number)))
    if torch := sys.modules.get("torch"):  # which has read them
        torch.set_num_threads(number)


def threads_asked_for() -> int:
    """Return the number of threads that libraries were asked to use."""
    return next((int(os.environ[name]) for name in _NUMBERS if os.environ.get(name, "").isdecimal()), cores())


def busy_remark(threads: int) -> str | None:
    """Return a hint if other processes keep so many cores busy that threads would wait for each other.

    Args:
        threads: that this process is about to compute with.
    """
    load = os.getloadavg()[0]
    free = max(1, cores() - round(load))
    if load + threads <= cores() + 1 or threads <= free:
        return None
    return (
        f"other processes are busy here (load {load:.1f}, {cores()} cores), and {threads} threads wait for each other "
        f"in every product: --threads {free} may be faster"
    )


def shorten_spinning() -> None:
    """Let OpenMP's threads sleep soon when they wait for each other, unless the user has set how they wait.

    While they spin beside another busy process, the thread that is waited for may have no core to run on. So short a
    time of spinning costs nothing measurable on a quiet machine, where not spinning at all costs a sixth
    (benchmarks/results/busy_machine.md). The number of threads, and so every sum, stays the same. PyTorch's library,
    libgomp on Linux, reads this once.
    """
    if not _WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)
