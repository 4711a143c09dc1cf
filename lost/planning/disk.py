"""Whether the disk has room for the checkpoints that a run is going to hold."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lost.checkpoint import array_bytes, checkpoints
from lost.config import Config
from lost.storage.files import existing, stale_temps


@dataclass(frozen=True)
class DiskRoom:
    """What checkpoints will take, and what there is.

    Attributes:
        place: where they go, or the nearest folder around it that exists.
        checkpoints: how many more than now the run holds at a time, at most.
        needed: their bytes.
        free: bytes there, with those of what the start removes.
        settings: what makes them so many.
    """

    place: Path
    checkpoints: int
    needed: int
    free: int
    settings: str

    @property
    def shortage(self) -> str:
        """What there is too little of and what to do, or nothing."""
        if self.needed <= self.free:
            return ""
        return (
            f"{self.place} has {_mib(self.free)} free, and the run's checkpoints will take {_mib(self.needed)} more "
            f"({self.checkpoints} of {_mib(self.needed // self.checkpoints)}: {self.settings}); expected room for all "
            "of them; make room, keep fewer, or choose another --out"
        )


def disk_room(config: Config, folder: Path, step: int, removed: Sequence[Path] = ()) -> DiskRoom:
    """Compare what a run's checkpoints will take with what is free where they go. Nothing is written.

    Args:
        config: the run, its vocabulary known.
        folder: the run folder; it may not exist yet.
        step: from which training goes on.
        removed: checkpoints that the start removes.
    """
    train, last, target = config.train, config.last_step, folder / "checkpoints"
    place, going = existing(target), (*removed, *stale_temps(target))
    free = shutil.disk_usage(place).free + sum(file.lstat().st_size for path in going for file in path.rglob("*"))
    multiples = last // train.keep_every if train.keep_every else 0
    most = train.keep_last + 1 + 1 + multiples
    held = len(checkpoints(target)) - len(removed)
    count = min(max(most - held, 1), _saves(step, last, train.save_every))
    settings = f"train.keep_last = {train.keep_last}, the best one, and the one being written"
    if multiples:
        settings += f"; multiples of train.keep_every = {train.keep_every}"
    return DiskRoom(place, count, count * array_bytes(config), free, settings)


def _saves(step: int, last: int, every: int) -> int:
    """Return how many checkpoints are written from one step to another, where there is always one."""
    if step >= last or not every:
        return int(step < last)
    return last // every - step // every + (last % every > 0)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
