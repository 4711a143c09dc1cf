"""Shards that change while a run reads them: a word and the last checkpoint, not a signal, and nothing unseen."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import start_python, wait_for_step

from lost.checkpoint import find_checkpoint
from lost.data.dataset import Dataset
from lost.engine import BACKENDS
from lost.errors import DataError

Lost = Callable[..., Any]
SPOIL = {
    "cut short": lambda path: os.truncate(path, 4096),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.fixture
def data(prepared: Dataset, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in prepared.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_in_training(tiny_yaml: Path, data: Path, tmp_path: Path, lost: Lost, backend: str, spoil: Any) -> None:
    arguments = ["train", tiny_yaml, "--data", data, "--out", tmp_path / "run", "--backend", backend]
    with start_python("-m", "lost", *arguments, "--set", "schedule.steps=100000") as process:
        wait_for_step(process, 21)  # the save of step 10 is finished before that of step 20 begins
        spoil(data / "train-00000.bin")
        errors = process.communicate()[1]
    assert process.returncode == 2, errors
    assert str(data / "train-00000.bin") in errors
    assert "changed while it was being read" in errors
    assert "changed while it was being read" in (tmp_path / "run" / "log.txt").read_text()
    assert find_checkpoint(tmp_path / "run")[0].progress.step >= 10
    again = lost(*arguments)  # a start looks again
    assert again.code == 2
    assert "train-00000.bin is 4096 bytes long" in again.err or "checksum" in again.err


def test_between_two_reads(data: Path) -> None:
    split, path = Dataset(data).split("train"), data / "train-00000.bin"
    first = split.read(0, 20)
    os.utime(path, ns=(1, 1))  # touched, and still the same: nothing to say
    np.testing.assert_array_equal(split.read(0, 20), first)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="was changed while"):
        split.read(0, 20)


def test_a_disk_that_fails_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Dataset(data).split("train")

    def fail(handle: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"train-00000.bin can't be read: Input/output error"):
        split.read(0, 20)
