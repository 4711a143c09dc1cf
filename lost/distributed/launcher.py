"""What a process knows of the launcher that started it, and that it doesn't outlive it."""

import os
import sys
import time
from collections.abc import Callable
from threading import Thread

exit_callbacks: list[Callable[[str], None]] = []  # who is told besides standard error


def local_rank() -> tuple[int, int]:
    """Return which of torchrun's processes on this machine this one is, and how many there are; else (0, 1)."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def leave_with_launcher() -> None:
    """If torchrun or mlx.launch started this process, watch for their end, and end at once when it comes.

    A launcher that was killed can't stop its workers: they would go on writing beside whatever is started next. What
    they saved stands. To be called before anything that takes time, lest the parent is gone already.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "MLX_RANK" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        words = f"left: the launcher (process {parent}) is gone; what was saved before stands"
        for tell in exit_callbacks:
            tell(words)
        print(f"lost: {words}", file=sys.stderr, flush=True)
        os._exit(1)

    Thread(target=watch, name="launcher", daemon=True).start()
