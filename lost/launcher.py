"""What a process knows of the launcher that started it, and that it doesn't outlive it."""

import os
import sys
import time
from threading import Thread


def first_here() -> bool:
    """Whether torchrun counts this process as its machine's first, or nobody counts it."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def leave_with_launcher() -> None:
    """Watch for the end of this process's parent, and end at once when it comes.

    A launcher that was killed can't stop its workers: they would go on writing beside whatever is started next. What
    they saved stands.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        print(
            f"lost: left: the launcher (process {parent}) is gone; what was saved before stands",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    Thread(target=watch, name="launcher", daemon=True).start()
