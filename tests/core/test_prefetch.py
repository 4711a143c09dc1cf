"""Reading ahead of an accelerator: the same run, errors where they belong, and no thread left behind."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import HANGS

from lost.checkpoint import open_checkpoint
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.errors import DataError
from lost.training.micro_batches import Prefetcher, batches_ahead

Lost = Callable[..., Any]


def batch(start: int) -> Batch:
    return Batch(np.full((1, 2), start, np.int32))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reading")]


@pytest.mark.parametrize("ahead", [0, 4])
def test_batches_in_order(ahead: int) -> None:
    batches = Prefetcher(batch, count(7, 3), ahead)
    assert [int(batches.take().tokens[0, 0]) for _ in range(20)] == list(range(7, 67, 3))
    batches.close()
    assert not readers()


def test_the_next_ones_are_read_while_one_is_used() -> None:
    """And not all of them: a few."""
    begun, fourth = [], threading.Event()

    def read(start: int) -> Batch:
        begun.append(start)
        if start == 4:
            fourth.set()
        return batch(start)

    batches = Prefetcher(read, count(), 4)
    batches.take()
    assert fourth.wait(HANGS)
    batches.close()
    assert begun == [0, 1, 2, 3, 4]
    assert batches_ahead("cuda:0") == batches_ahead("gpu") == 4
    assert batches_ahead("cpu") == 0


def test_an_error_comes_with_its_batch() -> None:
    def read(start: int) -> Batch:
        if start == 3:
            raise DataError("cut short")
        return batch(start)

    batches = Prefetcher(read, count(), 4)
    assert [int(batches.take().tokens[0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="cut short"):
        batches.take()
    batches.close()
    assert not readers()


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Read ahead on a CPU too, and note which threads read."""
    names: list[str] = []
    read = Dataset.split

    def split(self: Dataset, name: str) -> Any:
        found = read(self, name)
        inner = found.read

        def noted(*place: int) -> np.ndarray:
            names.append(threading.current_thread().name)
            return inner(*place)

        if name == "train":
            object.__setattr__(found, "read", noted)
        return found

    monkeypatch.setattr(Dataset, "split", split)
    monkeypatch.setattr("lost.training.micro_batches.batches_ahead", lambda device: 4)
    return names


def state(run: Path, step: int) -> dict[str, bytes]:
    found = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


def test_a_run_is_the_same_and_resumes_the_same(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, ahead: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str, *more: str) -> None:
        command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / name, "--backend", "torch")
        assert lost(*command, "--device", "cpu", *more).code == 0
        assert not readers()

    train("ahead", "--set", "train.stop_after=7")
    train("ahead")
    assert set(ahead) == {"reading_0"}
    monkeypatch.undo()
    train("straight")
    assert state(tmp_path / "ahead", 20) == state(tmp_path / "straight", 20)


def test_an_early_end_leaves_no_thread(
    lost: Lost,
    tiny_yaml: Path,
    prepared: Dataset,
    tmp_path: Path,
    ahead: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lost.backends.torch.engine import TorchEngine

    step, taken = TorchEngine.step, 0

    def interrupted(self: TorchEngine, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 4:
            os.kill(os.getpid(), signal.SIGINT)
        if taken == 8:
            raise RuntimeError("of no kind that is foreseen")
        return step(self, *arguments)

    monkeypatch.setattr(TorchEngine, "step", interrupted)
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch")
    for code in (130, 1):
        assert lost(*command, "--device", "cpu").code == code
        assert not readers()
    assert ahead
