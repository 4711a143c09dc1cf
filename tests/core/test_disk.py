"""Disk space for a run's checkpoints: their number, and whether they fit."""

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import array_bytes
from lost.config import Config
from lost.errors import StorageError
from lost.planning.disk import disk_room
from lost.storage.files import check_writable

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def has(size: int) -> None:
        monkeypatch.setattr("lost.planning.disk.shutil.disk_usage", lambda path: Usage(1 << 40, 0, size))

    return has


@pytest.mark.parametrize(
    ("steps", "train", "step", "held", "count"),
    [
        (100, {"keep_last": 2}, 0, 0, 4),  # two, the best, the one being written
        (100, {"keep_last": 2, "keep_every": 25}, 0, 0, 8),
        (100, {"keep_last": 2, "keep_every": 1000}, 0, 0, 4),
        (100, {"keep_last": 50}, 0, 0, 10),  # no more than it saves
        (100, {"keep_last": 2, "save_every": 0}, 0, 0, 1),
        (101, {"keep_last": 50}, 0, 0, 11),  # the last step's
        (100, {"keep_last": 2, "stop_after": 12}, 0, 0, 2),
        (100, {"keep_last": 2}, 50, 3, 1),  # those that are there take no more
        (100, {"keep_last": 2}, 50, 9, 1),  # too many, but one is written before others go
        (100, {"keep_last": 2}, 95, 1, 1),
        (100, {"keep_last": 2}, 85, 1, 2),
        (100, {"keep_last": 2}, 100, 3, 0),
    ],
)
def test_checkpoints_to_come(
    config: Callable[..., Config], tmp_path: Path, steps: int, train: dict, step: int, held: int, count: int
) -> None:
    settings = config(train={"save_every": 10, **train}, schedule={"steps": steps})
    for number in range(held):
        (tmp_path / "checkpoints" / f"step-{number:08d}").mkdir(parents=True)
    room = disk_room(settings, tmp_path, step)
    assert (room.checkpoints, room.needed) == (count, count * array_bytes(settings))


def test_too_little(config: Callable[..., Config], tmp_path: Path, free: Callable[[int], None]) -> None:
    settings = config(train={"save_every": 1})
    needed = 4 * array_bytes(settings)
    free(needed)
    assert disk_room(settings, tmp_path / "a" / "run", 0).shortage == ""
    free(needed - 1)
    room = disk_room(settings, tmp_path / "a" / "run", 0)
    assert room.folder == tmp_path
    assert f"{tmp_path} has " in room.shortage
    assert "4 of " in room.shortage
    assert "train.keep_last = 2" in room.shortage
    assert "make room, keep fewer, or choose another --out" in room.shortage


def test_what_the_start_removes_is_room(
    config: Callable[..., Config], tmp_path: Path, free: Callable[[int], None]
) -> None:
    free(0)
    old = tmp_path / "checkpoints" / "step-00000001"
    half = tmp_path / "checkpoints" / ".partial-step-00000002"
    for folder, size in ((old, 3000), (half, 200)):
        folder.mkdir(parents=True)
        (folder / "model-00001.safetensors").write_bytes(bytes(size))
    assert disk_room(config(), tmp_path, 0).free == 200
    assert disk_room(config(), tmp_path, 0, [old]).free == 3200


def test_writable_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        check_writable(tmp_path / "file" / "new")
    monkeypatch.setattr("lost.storage.files.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(StorageError, match="Permission denied"):
        check_writable(tmp_path / "new" / "newer")
