"""Named places where a test makes a run fail. Without the environment variable they cost a look at a string.

    LOST_FAIL_POINT=save.file:2=kill@1     the second time that rank 1 comes to save.file, it is killed

Actions: `kill` (SIGKILL, to this process), `term` (SIGTERM, likewise), `full` (the disk refuses).
"""

import errno
import os
import re
import signal

POINTS = (
    "step.done",  # an optimizer step was taken
    "evaluation.round",  # a round of an evaluation's batches is about to be
    "save.begun",  # an empty folder is there
    "save.file",  # a file of arrays was written
    "save.arrays",  # all of one worker's files are on disk
    "save.manifest",  # the manifest was written, the folder has no name yet
    "save.renamed",  # the checkpoint stands, `latest` points to the one before
    "save.latest",  # `latest` points to it
    "prepare.batch",  # a batch's tokens were handed to the shards, and are not noted yet
    "prune.renamed",  # an old checkpoint has lost its name, and is still there
)
_PLAN = os.environ.get("LOST_FAIL_POINT", "")
_reached = 0


def failpoint(name: str) -> None:
    """Fail here, if that was asked for."""
    if _PLAN:
        _act(name)


def _act(name: str) -> None:
    global _reached
    plan = re.fullmatch(r"(?P<name>[a-z.]+)(:(?P<time>\d+))?=(?P<action>kill|term|full)(@(?P<rank>\d+))?", _PLAN)
    if plan is None or plan["name"] not in POINTS:
        raise ValueError(
            f"LOST_FAIL_POINT = {_PLAN}: expected NAME[:TIME]=ACTION[@RANK], a name of {', '.join(POINTS)}"
        )
    rank = os.environ.get("RANK") or os.environ.get("MLX_RANK") or "0"
    if plan["name"] != name or plan["rank"] not in (None, rank):
        return
    _reached += 1
    if _reached != int(plan["time"] or 1):
        return
    if plan["action"] == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL if plan["action"] == "kill" else signal.SIGTERM)
