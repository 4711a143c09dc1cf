"""A run that doesn't fit: refused before it starts, or ended when memory runs out, with the nearest batch that does."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from lost.backends.torch.engine import TorchEngine
from lost.checkpoint import open_checkpoint, saver
from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import SingleProcess, local_batch_size
from lost.engine import StepResult
from lost.errors import ConfigError
from lost.model.adapted import dense_twin
from lost.planning.budget import budget
from lost.planning.memory.measuring import measuring
from lost.planning.memory.mlx import fuses
from lost.planning.room import check_room, fits_whole
from lost.training.endings import out_of_memory
from lost.training.teacher import Teacher


def test_the_nearest_batch_that_fits(config: Callable[..., Config]) -> None:
    settings = config(data={"seq_len": 64}, train={"batch_size": 24, "micro_batch_size": None})
    room = budget(settings, micro_batch=7).memory.total
    with pytest.raises(ConfigError, match=r"training needs about .* MiB \(.* weights, .* gradients, .* moments, .*"):
        check_room(settings, "torch", "cpu", room)
    with pytest.raises(ConfigError, match=r"the nearest that fits is --set train.micro_batch_size=6,"):
        check_room(settings, "torch", "cpu", room)
    check_room(settings.replace("train", micro_batch_size=6), "torch", "cpu", room)
    with pytest.raises(ConfigError, match=r"micro_batch_size=6,"):
        check_room(settings, "torch", "cpu", room, workers=2)  # 12 sequences each
    check_room(settings, "torch", "cpu", room, workers=4)  # 6 each


def test_nothing_fits(config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"no train.micro_batch_size alone .*checkpoint_activations=full, .*smaller"):
        check_room(config(), "mlx", "gpu", 1000)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("kind", ["eva", "lora_sb"])
def test_the_base_model_beside_a_run_that_begins_by_it(config: Callable[..., Config], kind: str, backend: str) -> None:
    """Whole, and unquantized; in the type that the run freezes it in, if it computes in that one."""
    wide = {"hidden_size": 256, "intermediate_size": 512}
    settings = config(model=wide, projection={"kind": kind, "rank": 4, "bits": 4}, train={"dtype": "bfloat16"})
    dense = 4 * budget(dense_twin(settings)).parameters
    training = budget(settings, backend, "cpu").memory
    taken = measuring(settings, backend, "cpu")
    assert taken
    assert taken.base == dense
    room = training.weights + taken.base + taken.beside
    assert room > training.total
    check_room(settings, backend, "cpu", room, begins=True)
    check_room(settings, backend, "cpu", room - 1)  # resumed, or of adapters that are trained further
    with pytest.raises(ConfigError, match=rf"projection.kind = {kind}: .* beside .* train.frozen_dtype=bfloat16"):
        check_room(settings, backend, "cpu", room - 1, begins=True)
    half = measuring(settings.replace("train", frozen_dtype="bfloat16"), backend, "cpu")
    assert half
    assert half.base == dense // 2
    exact = measuring(settings.replace("train", frozen_dtype="bfloat16", dtype="float32"), backend, "cpu")
    assert exact
    assert exact.base == dense
    check_room(settings.replace("projection", kind="lora"), backend, "cpu", room - 1, begins=True)


def test_accumulating_on_mlx_holds_two_sets_of_gradients(config: Callable[..., Config]) -> None:
    whole = config(train={"micro_batch_size": None})
    parts = config(train={"micro_batch_size": 2})
    assert budget(parts, "mlx").memory.gradients == 2 * budget(whole, "mlx").memory.gradients
    assert budget(parts, "torch").memory.gradients == budget(whole, "torch").memory.gradients


@pytest.mark.parametrize(
    ("width", "device", "installed", "made"),
    [(64, "gpu", "0.32.3", True), (64, "gpu", "0.32.4", False), (64, "gpu", None, False), (64, "cpu", "0.33.0", True),
     (56, "gpu", "0.33.0", True)],
)  # fmt: skip
def test_attention_scores_on_mlx(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, width: int, device: str, installed: str, made: bool
) -> None:
    """Counted, four bytes for each pair of tokens in each head and block, unless this MLX never makes them."""

    def version(package: str) -> str:
        if installed is None:
            raise PackageNotFoundError(package)
        return installed

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.delenv("MLX_SDPA_VJP_FALLBACK", raising=False)
    heads = {"hidden_size": 4 * width, "head_dim": width, "max_position_embeddings": 2048}
    fuses.cache_clear()
    one, two = (budget(config(model=heads, data={"seq_len": size}), "mlx", device, 1).memory for size in (1024, 2048))
    fuses.cache_clear()
    more = two.activations - 2 * one.activations  # what doesn't grow with the tokens, or grows with their square
    assert (more > 4 * 4 * 2 * (2048**2 - 2 * 1024**2)) is made


def test_shares(config: Callable[..., Config]) -> None:
    settings = config(train={"batch_size": 12, "micro_batch_size": 2})
    assert local_batch_size(settings, 1) == (12, 2)
    assert local_batch_size(settings, 3) == (4, 2)
    assert local_batch_size(config(train={"batch_size": 12, "micro_batch_size": None}), 3) == (4, 4)
    for count in (4, 5, 24):  # 3 sequences each aren't whole micro-batches; 5 don't divide; 24 are too many
        with pytest.raises(ConfigError, match=f"divide among {count} workers"):
            local_batch_size(settings, count)


def test_a_worker_that_shares_with_no_one_holds_what_it_gathers(config: Callable[..., Config]) -> None:
    """FSDP copies the weights even where each worker has all of them."""
    settings = config(train={"replicas": 2, "batch_size": 4, "micro_batch_size": 2})
    alone = budget(settings, "torch", "cpu", 2, 2).memory
    assert not fits_whole(settings, "cpu", alone.total, 2)
    assert fits_whole(settings, "cpu", alone.total + alone.weights + 4 * alone.gradients, 2)


class Short(RuntimeError):
    """As PyTorch raises it on a device."""


@pytest.mark.parametrize(
    "error",
    [
        Short("CUDA out of memory. Tried to allocate 2.00 GiB. If reserved but unallocated memory is large, try a, b"),
        RuntimeError("[malloc] Unable to allocate 4611686018427387904 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12"),
        MemoryError(),
    ],
)
def test_out_of_memory_in_training(
    error: Exception,
    lost: Callable[..., Any],
    tiny_yaml: Path,
    prepared: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A smaller micro-batch that divides the batch, the other remedies, and what was saved before: not a defect."""
    step, taken = TorchEngine.step, 0

    def limited(self: TorchEngine, *arguments: Any) -> StepResult:
        nonlocal taken
        taken += 1
        if taken > 12:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(TorchEngine, "step", limited)
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch")
    command += ("--device", "cpu", "--set", "train.batch_size=12")
    answer = lost(*command, "--set", "train.micro_batch_size=6")
    assert answer.code == 2
    assert "out of memory" in answer.err
    assert "If reserved" not in answer.err
    assert (
        "--set train.micro_batch_size=4, which computes the same, or train.checkpoint_activations=narrow" in answer.err
    )
    assert "defect" not in answer.err
    assert open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000010").progress.step == 10
    monkeypatch.undo()
    assert lost(*command, "--set", "train.micro_batch_size=4").code == 0


def test_out_of_memory_beside_a_teacher(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds is no room for the micro-batch."""
    settings = config(data={"seq_len": 64}, train={"batch_size": 12, "micro_batch_size": 6})
    two, four = (budget(settings, micro_batch=size).memory.total for size in (2, 4))
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: four)
    monkeypatch.setattr(Teacher, "memory", lambda self, config: four - two)
    engine: Any = SimpleNamespace(backend="torch", device="cpu", workers=SingleProcess())
    for teacher, size in ((None, 4), (Teacher("some", "some"), 2)):
        assert f"train.micro_batch_size={size}, which" in str(
            out_of_memory(MemoryError(), settings, engine, 6, teacher)
        )


def test_what_was_being_saved_when_a_framework_failed(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is finished, though nothing says what the error means."""
    step, write, failed, taken = TorchEngine.step, saver.write_tensors, Event(), 0

    def failing(self: TorchEngine, *arguments: Any) -> StepResult:
        nonlocal taken
        taken += 1
        if taken > 10:
            failed.set()
            raise RuntimeError("CUDA error: unspecified launch failure")
        return step(self, *arguments)

    def slow(*arguments: Any, **named: Any) -> Any:
        failed.wait()
        return write(*arguments, **named)

    monkeypatch.setattr(TorchEngine, "step", failing)
    monkeypatch.setattr(saver, "write_tensors", slow)
    run = tmp_path / "run"
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, "--backend", "torch", "--device", "cpu")
    assert answer.code == 1
    assert "unspecified launch failure" in answer.err
    assert open_checkpoint(run / "checkpoints" / "step-00000010").progress.step == 10


def test_out_of_memory_elsewhere(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> None:
        raise Short("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TorchEngine, "load", load)
    answer = lost(
        "train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch", "--device", "cpu"
    )
    assert answer.code == 2
    assert "Tried to allocate 2.00 GiB; expected what is held at once to fit; compute less at once" in answer.err


def test_other_errors_are_defects_still(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*arguments: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(TorchEngine, "step", step)
    answer = lost(
        "train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch", "--device", "cpu"
    )
    assert answer.code == 1
    assert "defect" in answer.err
