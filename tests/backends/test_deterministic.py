"""train.deterministic: what is asked of PyTorch, who can't, and that a run under it works and may begin late."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device import TORCH

from lost.backends.mlx.engine import MlxEngine
from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import inference_config
from lost.errors import BackendError
from lost.model.init import initial_values
from lost.projections import KINDS

NAMES = ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What the process is told is taken back."""
    before = {name: os.environ.get(name) for name in NAMES}
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.mark.parametrize(("given", "kept"), [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:2:16:8", ":4096:8")])
def test_what_pytorch_is_told(
    given: str | None, kept: str, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given:
        monkeypatch.setenv(NAMES[0], given)
    TorchEngine(config(), "cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    TorchEngine(config(train={"deterministic": True}), "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert [os.environ[name] for name in NAMES] == [kept, "1"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains(kind: str, config: Callable[..., Config]) -> None:
    """No operation is without a deterministic kernel, on a CPU at least, and the numbers stay what they were."""
    batch = Batch(np.random.default_rng(0).integers(0, 19, (4, 9)).astype(np.int32))
    losses = []
    for deterministic in (False, True):
        settings = config(projection={"kind": kind}, train={"deterministic": deterministic, "dtype": "bfloat16"})
        engine = TorchEngine(settings, TORCH)
        engine.load(initial_values(settings))
        losses.append([engine.step([batch], batch.predictions, 1e-3).wait()[0] for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_devices_without_refuse(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(train={"deterministic": True})
    for module, kind, device in (("torch", TorchEngine, "mps"), ("mlx", MlxEngine, "gpu")):
        monkeypatch.setattr(f"lost.backends.{module}.devices.resolve", lambda name, device=device: device)
        with pytest.raises(BackendError, match=r"train.deterministic = true: .* doesn't promise it"):
            kind(settings)
    assert not inference_config(settings).train.deterministic  # so that its checkpoints are read there


def test_a_run_may_begin_late_and_says_so(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch")
    command += ("--device", "cpu", "--set")
    assert lost(*command, "train.stop_after=5").code == 0
    answer = lost(*command, "train.deterministic=true")
    assert answer.code == 0
    assert "train.deterministic = True, was False" in answer.out
