"""`train.micro_batch_size: auto`: what a device gets, what a run keeps, and where the estimate is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lost.backends.torch as torch_backend
from lost.backends.mlx.engine import MlxEngine
from lost.backends.torch.distributed.group import TorchGroup
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.optim.adamw import AdamW
from lost.checkpoint import Checkpoint, open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.data.loader import SampleStream
from lost.distributed.group import SingleProcess, Workers
from lost.errors import ConfigError, GradientMemoryError
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.planning.micro_batch import half, with_micro_batch
from lost.planning.room import check_room, fits_whole, peak_remark, settings_that_take_less
from lost.training.micro_batches import MicroBatches

ENGINES = {"torch": TorchEngine, "mlx": MlxEngine}
GIB = 2**30


def room_for(config: Config, size: int, backend: str = "torch", device: str = "cuda") -> int:
    """Bytes that suffice for so many sequences at once, and for no more."""
    return budget(config, backend, device, size).memory.total


@pytest.mark.parametrize(("backend", "device"), [("torch", "cuda:0"), ("mlx", "gpu")])
def test_an_accelerator_takes_as_many_as_fit(config: Callable[..., Config], backend: str, device: str) -> None:
    asked = config(data={"seq_len": 64}, train={"batch_size": 24, "micro_batch_size": "auto"})

    def chosen(size: int, workers: int = 1) -> int | None:
        room = room_for(asked, size, backend, device)
        found = with_micro_batch(asked, backend, device, room, workers)
        if workers == 1:
            check_room(found, backend, device, room)
        return found.train.micro_batch_size

    assert [chosen(size) for size in (1, 7, 8, 11, 12)] == [1, 6, 8, 8, 12]
    assert chosen(24) == 24
    assert chosen(24, workers=2) == 12
    assert chosen(24, workers=8) == 3


def test_several_cards_gather_once_a_step_where_that_costs_few_sequences(config: Callable[..., Config]) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8}
    train = {"batch_size": 128, "micro_batch_size": "auto"}
    asked = config(model=sizes, projection={"kind": "dense"}, data={"seq_len": 8}, train=train)

    def chosen(size: int) -> tuple[int, bool]:
        room = budget(asked, "torch", "cuda", size, 64, shards=2).memory.total
        found = with_micro_batch(asked, "torch", "cuda", room, workers=2)
        return found.train.micro_batch, fits_whole(found, "cuda", room, 2)

    assert [chosen(size) for size in (64, 32)] == [(32, True), (16, True)]
    assert chosen(8) == (8, False)  # beside whole weights there is room for hardly any


def test_beside_a_teacher_nothing_is_gathered_once_a_step(config: Callable[..., Config]) -> None:
    """So as many sequences are taken as fit without."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8}
    train = {"batch_size": 128, "micro_batch_size": "auto"}
    asked = config(model=sizes, projection={"kind": "dense"}, data={"seq_len": 8}, train=train)
    room = budget(asked, "torch", "cuda", 64, 64, shards=2).memory.total
    taught = asked.replace("teacher", path="teacher")
    assert [with_micro_batch(each, "torch", "cuda", room, workers=2).train.micro_batch for each in (asked, taught)] == [
        32,
        64,
    ]


def test_nothing_fits(config: Callable[..., Config]) -> None:
    settings = with_micro_batch(config(train={"micro_batch_size": "auto"}), "torch", "cuda", 1000)
    with pytest.raises(ConfigError, match=r"train.micro_batch_size = 1: .* no train.micro_batch_size alone makes it"):
        check_room(settings, "torch", "cuda", 1000)


def test_a_cpu_takes_the_batch_in_bounds(config: Callable[..., Config]) -> None:
    asked = config(data={"seq_len": 64}, train={"batch_size": 512, "micro_batch_size": "auto"})
    assert with_micro_batch(asked, "torch", "cpu", 1 << 40).train.micro_batch_size == 256  # 16,384 tokens
    assert with_micro_batch(asked, "torch", "cpu", 1 << 40, workers=4).train.micro_batch_size == 128
    room = 2 * room_for(asked, 100, device="cpu")
    assert with_micro_batch(asked, "torch", "cpu", room).train.micro_batch_size == 64


def test_what_is_set_stays(config: Callable[..., Config]) -> None:
    for size in (1, None):
        asked = config(train={"micro_batch_size": size})
        assert with_micro_batch(asked, "torch", "cuda", 1 << 40, before=2) == asked
    assert load_config("llama_1b_paper").train.micro_batch_size == "auto"


def test_a_run_keeps_its_number_while_it_suits_the_device(config: Callable[..., Config]) -> None:
    asked = config(data={"seq_len": 64}, train={"batch_size": 64, "micro_batch_size": "auto"})

    def kept(before: int, size: int, device: str = "cuda", workers: int = 1) -> int | None:
        room = room_for(asked, size, device=device)
        return with_micro_batch(asked, "torch", device, room, workers, before).train.micro_batch_size

    assert kept(8, 8) == kept(8, 16) == 8  # twice as many would fit: perhaps they were tried, and didn't
    assert kept(8, 32) == 32  # a larger card
    assert kept(8, 4) == 4  # a smaller one
    assert kept(64, 64, workers=2) == 32  # which 64 doesn't divide
    assert kept(2, 64, "cpu") == kept(2, 2, "cpu") == 2  # to the same bits


def test_half(config: Callable[..., Config]) -> None:
    def of(size: int | None, workers: int = 1) -> int | None:
        return half(config(train={"batch_size": 12, "micro_batch_size": size}), workers)

    assert [of(None), of(6), of(3), of(1)] == [6, 3, 1, None]
    assert of(None, workers=4) == 1


def test_a_remark_where_the_peak_parts_from_the_estimate() -> None:
    assert peak_remark(11 * GIB, 10 * GIB) == peak_remark(9 * GIB, 10 * GIB) == peak_remark(90 << 20, 10 << 20) == ""
    assert peak_remark(12 * GIB, 10 * GIB) == (
        "the first steps took 12.00 GiB of memory at their peak, where 10.00 GiB were estimated"
    )
    assert "8.00 GiB" in peak_remark(8 * GIB, 10 * GIB)


@pytest.mark.parametrize(("gib", "size"), [(80, 128), (40, 32), (24, 16)])
def test_a_plan_says_what_would_be_chosen(lost: Callable[..., Any], gib: int, size: int) -> None:
    command = ("plan", "llama_1b_paper", "--backend", "torch", "--device", "cuda", "--memory-gib", gib)
    answer = lost(*command)
    assert f"memory: {size} x 256 tokens at once (train.micro_batch_size = auto, on cuda)" in answer.out
    value = json.loads(lost(*command, "--json").out)
    assert value["micro_batch_size"] == size
    assert value["memory_bytes"]["total"] == room_for(load_config("llama_1b_paper"), size) <= gib * GIB
    assert value["fits"]


def test_a_plan_that_does_not_fit_is_one_answer(lost: Callable[..., Any]) -> None:
    answer = lost("plan", "llama_1b_paper", "--backend", "torch", "--device", "cuda", "--memory-gib", 2, "--json")
    assert answer.code == 2
    assert "training needs about" in json.loads(answer.out)["error"]["message"]


def test_a_plan_for_a_device_that_isnt_there(lost: Callable[..., Any]) -> None:
    answer = lost("plan", "llama_1b_paper", "--backend", "torch", "--device", "gpu", "--memory-gib", 80)
    assert answer.code == 2
    assert "--device gpu with --memory-gib: torch has cpu, mps, cuda; name one of these" in answer.err
    assert json.loads(lost("plan", "llama_1b_paper", "--device", "cpu", "--memory-gib", 80, "--json").out)["fits"]


class Trains:
    """`lost train` of a small run on a CPU, four sequences a step, by a backend."""

    def __init__(self, lost: Callable[..., Any], yaml: Path, data: Dataset, folder: Path, backend: str) -> None:
        self.folder, self._lost = folder, lost
        self._command = ("train", yaml, "--data", data.path, "--backend", backend, "--device", "cpu")

    def __call__(self, name: str, size: object = "auto", *more: object) -> Any:
        """The answer; the run is a folder of this name."""
        sets = ("--set", f"train.micro_batch_size={size}", *more)
        return self._lost(*self._command, "--out", self.folder / name, *sets)

    def last(self, name: str, step: int = 20) -> Checkpoint:
        """A run's checkpoint."""
        return open_checkpoint(self.folder / name / "checkpoints" / f"step-{step:08d}")


@pytest.fixture
def trains(lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Callable[[str], Trains]:
    return lambda backend: Trains(lost, tiny_yaml, prepared, tmp_path, backend)


def hold_at_most(monkeypatch: pytest.MonkeyPatch, backend: str, size: int, after: int = 0) -> None:
    """Have a backend's memory run out where more sequences come at once, after some batches."""
    engine: Any = ENGINES[backend]
    on_device, left = engine._on_device, iter(range(after))

    def limited(self: Any, batch: Batch) -> Any:
        if len(batch.tokens) > size and next(left, None) is None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return on_device(self, batch)

    monkeypatch.setattr(engine, "_on_device", limited)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_first_step_without_room_is_taken_again_with_half(
    backend: str, trains: Callable[[str], Trains], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the run had been told so: the same bits, remembered when it is resumed."""
    train = trains(backend)
    hold_at_most(monkeypatch, backend, 2)
    answer = train("run", "auto", "--set", "train.stop_after=10")
    assert answer.code == 0, answer.err
    assert "4 sequences at once (train.micro_batch_size = auto) took more memory than estimated" in answer.out
    assert "training with 2, which computes the same" in answer.out
    assert "micro_batch_size: auto" in (train.folder / "run" / "config.yaml").read_text()
    assert train.last("run", 10).config.train.micro_batch_size == 2
    resumed = train("run")
    assert resumed.code == 0, resumed.err
    assert "took more memory" not in resumed.out
    assert "micro_batch_size" not in resumed.out
    assert train("told", 2).code == 0
    for got, expected in zip(train.last("run").parameters(), train.last("told").parameters(), strict=True):
        np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("backend", ENGINES)
def test_a_second_step_without_room_is_taken_again_too(
    backend: str, trains: Callable[[str], Trains], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments take their memory in the first update; only then is all of it taken. Later there is no excuse."""
    train = trains(backend)
    hold_at_most(monkeypatch, backend, 2, after=1)
    answer = train("run", "auto", "--set", "train.stop_after=4")
    assert answer.code == 0, answer.err
    assert answer.out.count("training with 2, which computes the same") == 1
    monkeypatch.undo()
    told = train("told", "auto", "--set", "train.stop_after=1"), train("told", 2, "--set", "train.stop_after=4")
    assert [each.code for each in told] == [0, 0]
    for got, expected in zip(train.last("run", 4).parameters(), train.last("told", 4).parameters(), strict=True):
        np.testing.assert_array_equal(got[1], expected[1])
    hold_at_most(monkeypatch, backend, 2, after=2)
    assert train("third").code == 2


@pytest.mark.parametrize(("workers", "size"), [(SingleProcess(), 1), (object.__new__(TorchGroup), 4)])
def test_no_step_of_a_worker_is_taken_again(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, workers: Workers, size: int
) -> None:
    """FSDP keeps what it had summed up when the memory ran out, with one worker too."""
    monkeypatch.setattr(TorchGroup, "world_size", 1, raising=False)

    class Engine:
        device = "cpu"

        def step(self, *arguments: Any) -> Any:
            raise GradientMemoryError(MemoryError())

    engine: Any = Engine()
    engine.workers = workers
    asked = config(train={"batch_size": 4, "micro_batch_size": 4})
    batches = MicroBatches(asked, object.__new__(SampleStream), engine, True, lambda text: None)
    with pytest.raises(GradientMemoryError):
        batches.step(0, 1, 1e-3)
    assert batches.size == size


def test_memory_that_runs_out_otherwise_ends_the_run(
    trains: Callable[[str], Trains], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a number is set, where no smaller one is left, and where something has changed."""
    train = trains("torch")
    hold_at_most(monkeypatch, "torch", 2)
    set_by_hand = train("set", 4)
    assert set_by_hand.code == 2
    assert "train.micro_batch_size was 4: train again with --set train.micro_batch_size=2" in set_by_hand.err
    assert set_by_hand.err.count("out of memory") == 2  # ours, and PyTorch's own words
    hold_at_most(monkeypatch, "torch", 0)
    assert "train.micro_batch_size was 1: train again with train.checkpoint" in train("none").err
    monkeypatch.undo()

    def update(*arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(AdamW, "step", update)
    assert "train.micro_batch_size was 4: train again with" in train("update").err


@pytest.mark.parametrize("size", ["auto", 4])
def test_the_first_steps_peak_beside_the_estimate(
    size: object, trains: Callable[[str], Trains], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a device records it. Said once."""
    peak = {"memory_bytes": 12 * GIB, "memory_active_bytes": 0, "memory_cache_bytes": 0}
    monkeypatch.setattr(TorchEngine, "memory", lambda self: peak)
    answer = trains("torch")("run", size)
    assert answer.code == 0, answer.err
    assert answer.out.count("the first steps took 12.00 GiB of memory at their peak, where 0.") == 1


def test_a_run_on_a_smaller_machine(trains: Callable[[str], Trains], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it changes, and another start there changes nothing more."""
    train = trains("torch")
    begun = train("run", "auto", "--set", "train.stop_after=5")
    assert "sequences at once" not in begun.out  # all of them
    config = train.last("run", 5).config
    assert config.train.micro_batch_size == 4
    monkeypatch.setattr(torch_backend, "capacity", lambda device: room_for(config, 3, device="cpu"))
    dry = train("run", "auto", "--dry-run")
    assert "1 sequence at once" in dry.out
    answer = train("run", "auto", "--set", "train.stop_after=6")
    assert answer.code == 0, answer.err
    assert "changed since the checkpoint: train.micro_batch_size = 1, was 4; train.stop_after = 6, was 5" in answer.out
    assert "4 x 16 tokens a step, 1 sequence at once" in answer.out
    monkeypatch.undo()
    again = train("run")
    assert "train.micro_batch_size" not in again.out
    assert train.last("run").config.train.micro_batch_size == 1


@pytest.mark.parametrize(("optimizer", "takes"), [("adamw", True), ("muon", False)])
def test_what_is_proposed_is_allowed(config: Callable[..., Config], optimizer: str, takes: bool) -> None:
    proposed = settings_that_take_less(config(optimizer={"name": optimizer}))
    assert ("train.param_dtype=bfloat16" in proposed) == takes
