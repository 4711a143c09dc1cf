"""log.txt: messages of a run and why it ended, with the time; of all its lives, one after the other."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lost import __version__
from lost.distributed import launcher
from lost.distributed.group import Workers
from lost.storage.nofollow import open_update
from lost.tracking.base import Tracker
from lost.utils.addresses import without_userinfo
from lost.utils.printable import printable

FILE = "log.txt"


@contextmanager
def logged(folder: Path, workers: Workers) -> Iterator[Tracker]:
    """Yield a tracker that writes sentences to the run's log; the reason of an end is written there too.

    Every worker that sees the folder writes there, so that the one that failed can say why.
    """
    if workers.rank >= workers.num_readers:
        yield Tracker()
        return
    log = RunLog(folder / FILE, workers)
    launcher.exit_callbacks.append(log.note)
    command = " ".join(map(without_userinfo, sys.argv))
    log.note(f"lost {__version__}, process {os.getpid()} on {socket.gethostname()}: {command}")
    try:
        yield log
    except BaseException as error:
        log.note(f"ended: {type(error).__name__}: {error}")
        raise
    finally:
        launcher.exit_callbacks.remove(log.note)


class RunLog(Tracker):
    """Sentences about a run, with the time and who said them.

    Args:
        path: the file.
        workers: of whom this one writes.
    """

    def __init__(self, path: Path, workers: Workers) -> None:
        self._path = path
        self._rank, self._who = workers.rank, f" rank {workers.rank}" if workers.world_size > 1 else ""

    def message(self, text: str) -> None:
        """Append a sentence."""
        if self._rank == 0:  # the others would say the same
            self.note(text)

    def note(self, text: str) -> None:
        """Append a line, where the disk takes it: the log must not be what ends a run."""
        line = f"{time.strftime('%FT%T%z')}{self._who} {printable(' '.join(text.split()))}\n"
        with suppress(OSError), open_update(self._path) as file:
            file.seek(0, os.SEEK_END)
            file.write(line.encode())
