"""Disk space for the checkpoints that a run is going to hold."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lost.checkpoint import CHECKPOINTS, array_bytes, checkpoints
from lost.config import Config
from lost.storage.files import existing, stale_temps
from lost.utils.wording import sized


@dataclass(frozen=True)
class DiskRoom:
    """The space that checkpoints will take, and the space there is.

    Attributes:
        folder: for them, or its nearest parent that exists.
        checkpoints: the most that the run holds at a time, beyond those there now.
        needed: their bytes.
        free: bytes there, including what the start removes.
        settings: the reasons for their number.
    """

    folder: Path
    checkpoints: int
    needed: int
    free: int
    settings: str

    @property
    def shortage(self) -> str:
        """What is missing and what to do, or nothing."""
        if self.needed <= self.free:
            return ""
        return (
            f"{self.folder} has {sized(self.free)} free, and the run's checkpoints will take {sized(self.needed)} more "
            f"({self.checkpoints} of {sized(self.needed // self.checkpoints)}: {self.settings}); expected room for all "
            "of them; make room, keep fewer, or choose another --out"
        )


def disk_room(config: Config, folder: Path, step: int, removed: Sequence[Path] = ()) -> DiskRoom:
    """Compare the size of a run's checkpoints with the free space. Nothing is written.

    Args:
        config: the run, its vocabulary known.
        folder: the run folder; it may not exist yet.
        step: from which training starts.
        removed: checkpoints that the start removes.
    """
    train, last, target = config.train, config.last_step, folder / CHECKPOINTS
    parent, going = existing(target), (*removed, *stale_temps(target))
    free = shutil.disk_usage(parent).free + sum(file.lstat().st_size for path in going for file in path.rglob("*"))
    multiples = last // train.keep_every if train.keep_every else 0
    most = train.keep_last + 1 + 1 + multiples
    held = len(checkpoints(target)) - len(removed)
    count = min(max(most - held, 1), _saves(step, last, train.save_every))
    settings = f"train.keep_last = {train.keep_last}, the best one, and the one being written"
    if multiples:
        settings += f"; multiples of train.keep_every = {train.keep_every}"
    return DiskRoom(parent, count, count * array_bytes(config), free, settings)


def _saves(step: int, last: int, every: int) -> int:
    """Return how many checkpoints are written between two steps, the last of which always has one."""
    if step >= last or not every:
        return int(step < last)
    return last // every - step // every + (last % every > 0)
