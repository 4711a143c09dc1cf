"""Fail points: named points at which tests make a run fail. Inactive without the environment variable.

    LOST_FAIL_POINT=save.file:2=kill@1     rank 1 is killed the second time it reaches save.file

Actions: `kill` (SIGKILL to this process), `term` (SIGTERM likewise), `full` (the disk is full).
"""

import errno
import os
import re
import signal

from lost.utils.machine import rank

POINTS = (
    "step.done",  # an optimizer step was taken
    "evaluation.round",  # a round of an evaluation's batches is about to begin
    "sample.piece",  # a model in training has written a piece of text
    "save.begun",  # the folder exists, empty
    "save.file",  # a file of arrays was written
    "save.arrays",  # all of one worker's files are on disk
    "save.manifest",  # the manifest was written, the folder has no name yet
    "save.renamed",  # the checkpoint is complete, `latest` points to the one before
    "save.latest",  # `latest` points to it
    "prepare.batch",  # a batch's tokens were written to the shards, and not recorded yet
    "prune.renamed",  # an old checkpoint is renamed, and not removed yet
)
_PLAN = os.environ.get("LOST_FAIL_POINT", "")
_reached = 0


def failpoint(name: str) -> None:
    """Fail here, if the environment variable says so."""
    if _PLAN:
        _act(name)


def _act(name: str) -> None:
    global _reached
    plan = re.fullmatch(r"(?P<name>[a-z.]+)(:(?P<time>\d+))?=(?P<action>kill|term|full)(@(?P<rank>\d+))?", _PLAN)
    if plan is None or plan["name"] not in POINTS:
        raise ValueError(
            f"LOST_FAIL_POINT = {_PLAN}: expected NAME[:TIME]=ACTION[@RANK], a name of {', '.join(POINTS)}"
        )
    if plan["name"] != name or plan["rank"] not in (None, rank()):
        return
    _reached += 1
    if _reached != int(plan["time"] or 1):
        return
    if plan["action"] == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL if plan["action"] == "kill" else signal.SIGTERM)
