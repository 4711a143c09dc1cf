"""What the operating system says about this machine, frameworks aside."""

import os


def memory_bytes() -> int:
    """Return the machine's memory, all of it: what is in use isn't subtracted."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
