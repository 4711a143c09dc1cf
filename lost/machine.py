"""What the operating system says about this machine, frameworks aside."""

import os
import resource
import sys


def memory_bytes() -> int:
    """Return the machine's memory, all of it: what is in use isn't subtracted."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def process_peak_bytes() -> int:
    """Return the most memory that this process has held."""
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units
