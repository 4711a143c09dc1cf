"""What MLX raises where Metal fails, raised here by a stand-in for `mx.eval`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from lost.backends.mlx.distributed.group import MlxGroup
from lost.backends.mlx.engine import MlxEngine
from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.engine import StepResult
from lost.errors import WorkerLostError

_FAILED = "[METAL] Command buffer execution failed: "
MEMORY = f"{_FAILED}Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
DISPLAY = f"{_FAILED}Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)."


def failing(message: str) -> Callable[..., None]:
    def evaluate(*arrays: object) -> None:
        raise RuntimeError(message)

    return evaluate


@pytest.mark.parametrize(
    ("message", "remedies"),
    [
        (MEMORY, ["out of memory", "train.micro_batch_size=1, which computes the same"]),
        (DISPLAY, ["macOS stopped", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1", "caffeinate -i", "train.micro_batch_size"]),
    ],
)
def test_in_training(
    message: str,
    remedies: list[str],
    lost: Callable[..., Any],
    tiny_yaml: Path,
    prepared: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, taken = MlxEngine.step, 0

    def limited(self: MlxEngine, *arguments: Any) -> StepResult:
        nonlocal taken
        taken += 1
        if taken > 11:
            monkeypatch.setattr(mx, "eval", failing(message))
        return step(self, *arguments)

    monkeypatch.setattr(MlxEngine, "step", limited)
    answer = lost(
        "train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "mlx", "--device", "cpu"
    )
    monkeypatch.undo()
    assert answer.code == 2
    for remedy in remedies:
        assert remedy in answer.err
    assert "defect" not in answer.err
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000010").progress.step == 10


@pytest.mark.parametrize(
    ("message", "error"), [(MEMORY, RuntimeError), (DISPLAY, RuntimeError), ("ring", WorkerLostError)]
)
def test_a_worker_that_fails_by_itself_has_not_lost_another(
    message: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = MlxGroup(mx.distributed.init())
    monkeypatch.setattr(mx, "eval", failing(message))
    with pytest.raises(error, match="lost contact" if error is WorkerLostError else "Command buffer"):
        workers.reduce({"weight": mx.ones(3)}, mx.array(1.0))
