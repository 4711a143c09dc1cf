"""The launcher that started this process: the local rank, and exits that nothing which is gone can hold up."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import NoReturn

from lost.errors import UserError

exit_callbacks: list[Callable[[str], None]] = []  # called with the reason, before it goes to standard error

LONGEST_EXIT = 15  # seconds; torchrun kills after 30


def local_rank() -> tuple[int, int]:
    """Return this process's rank among the launcher's on this machine, and their number; without a launcher (0, 1).

    `mlx.launch` tells it by the ring's host file, which lists each rank's addresses, `IP:PORT`. Its other backends have
    no such file: jaccl connects machines.
    """
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        nodes = json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text())
        hosts, rank = [{each.rpartition(":")[0] for each in node} for node in nodes], int(os.environ["MLX_RANK"])
        here = [not hosts[rank].isdisjoint(each) for each in hosts]
        return sum(here[:rank]), max(1, sum(here))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # a lone process's is empty
        return 0, 1


def launched() -> bool:
    """Return whether torchrun or mlx.launch started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "MLX_RANK" in os.environ


def lone_of_mlx() -> bool:
    """Return whether this process is all that `mlx.launch -n 1` started: the host file that it wrote is empty."""
    hosts = os.environ.get("MLX_HOSTFILE")
    return hosts is not None and not (Path(hosts).exists() and Path(hosts).read_text().strip())


def check_alone() -> None:
    """Check that this process is the only one: what doesn't divide its work would do all of it in each.

    Raises:
        UserError: a launcher started several.
    """
    sizes = {"mpirun": os.environ.get("OMPI_COMM_WORLD_SIZE", "1")}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sizes["torchrun"] = os.environ.get("WORLD_SIZE", "1")
    if "MLX_RANK" in os.environ and not lone_of_mlx():
        sizes["mlx.launch"] = "several"
    for launcher, size in sizes.items():
        if size != "1":
            raise UserError(
                f"{launcher} started several processes, each of which would do all of this and answer; expected one; "
                "start it without the launcher"
            )


def leave(code: int) -> NoReturn:
    """Exit after a failure; if a launcher started this process, an alarm ends it where that takes too long.

    On the way out a device is waited for, and what it shares with a worker that is gone may never end. No thread could
    help: the wait may keep the interpreter's lock.
    """
    if launched():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST_EXIT)
    sys.exit(code)


def leave_with_launcher() -> None:
    """If torchrun or mlx.launch started this process, watch the launcher and exit at once when it is gone.

    A launcher that was killed can't stop its workers, which would go on writing beside whatever is started next. What
    they saved before stays intact. Call this before anything slow, or the parent may be gone already.
    """
    if not launched():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        message = f"stopped: the launcher (process {parent}) is gone; what was saved before is intact"
        for callback in exit_callbacks:
            callback(message)
        print(f"lost: {message}", file=sys.stderr, flush=True)
        os._exit(1)

    Thread(target=watch, name="launcher", daemon=True).start()
