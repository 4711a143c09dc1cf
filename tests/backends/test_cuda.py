"""What is done for CUDA, tried without a card: the calls of PyTorch that are made, and with what."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_python
from torch import Tensor

from lost.backends.torch import devices
from lost.backends.torch.distributed.group import TorchGroup, join
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.kernels.loss import IGNORED
from lost.config import Config
from lost.data.batch import Batch

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "reserved", "room"),
    [
        (80 * GIB, 0, int(0.92 * 80 * GIB)),  # never all of it
        (30 * GIB, 0, 30 * GIB),  # another process has the rest
        (10 * GIB, 20 * GIB, 30 * GIB),  # this one has some, and takes it again
    ],
)
def test_room_on_a_card(free: int, reserved: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    assert devices.capacity("cuda:1") == room


SEEN = """
import os, sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("PYTORCH_ALLOC_CONF"), os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
            raise SystemExit
sys.meta_path.insert(0, Watch())
import lost.backends.torch
"""


def test_segments_grow_unless_the_user_says_how_memory_is_allocated() -> None:
    """As PyTorch finds the environment when it is imported."""
    unset = {"PYTORCH_ALLOC_CONF": "", "PYTORCH_CUDA_ALLOC_CONF": ""}
    script = f"import os; [os.environ.pop(each) for each in {list(unset)} if not os.environ[each]]\n" + SEEN
    for given, seen in (
        ({}, "expandable_segments:True None"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native None"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "None backend:native"),
    ):
        assert run_python("-c", script, cold=True, check=True, **{**unset, **given}).stdout.strip() == seen


class Card(torch.overrides.TorchFunctionMode):
    """Notes what would be pinned and copied to a card, and leaves it where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []
        self.copied: list[tuple[Tensor, bool]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.pin_memory:
            self.pinned.append(args[0])
            return args[0]
        if function is Tensor.to and torch.device("cuda", 1) in args:
            self.copied.append((args[0], bool((kwargs or {}).get("non_blocking"))))
            return args[0]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mask", [None, np.arange(24).reshape(3, 8) % 3 > 0])
def test_a_micro_batch_is_one_pinned_copy_that_nothing_waits_for(
    mask: np.ndarray | None, config: Callable[..., Config]
) -> None:
    engine, card = TorchEngine(config(), "cpu"), Card()
    engine._device = torch.device("cuda", 1)
    tokens = np.random.default_rng(0).integers(0, 19, (3, 9)).astype(np.int32)
    tokens[0] = 0  # which has no sign
    tokens.flags.writeable = False  # as what is read from a file
    with card:
        read, targets = engine._on_device(Batch(tokens, mask))
    assert [(copied.dtype, tuple(copied.shape), waits_not) for copied, waits_not in card.copied] == [
        (torch.int32, (3, 9), True)
    ]
    assert card.pinned[0] is card.copied[0][0]
    expected = tokens[:, 1:] if mask is None else np.where(mask, tokens[:, 1:], IGNORED)
    assert read.dtype == targets.dtype == torch.int64
    np.testing.assert_array_equal(read, tokens[:, :-1])
    np.testing.assert_array_equal(targets, expected.reshape(-1))


def test_where_there_is_no_card_nothing_is_pinned(config: Callable[..., Config]) -> None:
    engine, card = TorchEngine(config(), "cpu"), Card()
    with card:
        engine._on_device(Batch(np.zeros((3, 9), np.int32)))
    assert not card.pinned


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two cards by name, and the numbers of those that became the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_the_resolved_card_is_the_current_one(name: str, number: int, two_cards: list[int]) -> None:
    assert devices.resolve(name) == f"cuda:{number}"
    assert two_cards == [number]
    assert devices.resolve("cpu") == "cpu"
    assert two_cards == [number]


@pytest.mark.parametrize(("device", "connected"), [("cuda", "cpu:gloo,cuda:nccl"), ("cpu", "gloo")])
def test_workers_of_cards_connect_to_their_own_and_give_up(
    device: str, connected: str, two_cards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL is told the local card, and how long to wait; the group between CPUs waits longer, and is gloo's."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for variable, value in {"MASTER_ADDR": "here", "MASTER_PORT": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    asked: list[tuple[str, Any, Any]] = []

    def note(backend: str, **more: Any) -> None:
        asked.append((backend, more["timeout"], more.get("device_id")))

    for name, replacement in {"init_process_group": note, "new_group": note, "is_initialized": lambda: False}.items():
        monkeypatch.setattr(torch.distributed, name, replacement)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert join(device).rank == 1
    (backend, in_a_step, card), (between_cpus, alone, _) = asked
    assert (backend, between_cpus) == (connected, "gloo")
    assert card == (torch.device("cuda", 1) if device == "cuda" else None)
    assert two_cards == ([1] if device == "cuda" else [])
    assert (in_a_step < alone) == (device == "cuda")


def test_all_workers_gather_alike_where_their_cards_differ(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one has room for whole steps, another one hasn't."""
    chosen: list[bool] = []

    class Group(TorchGroup):
        rank, world_size = 0, 2

        def __init__(self) -> None: ...

        def any(self, flag: bool) -> bool:
            return True

    def sharded(config: Config, workers: Any, device: Any, whole_steps: bool) -> None:
        chosen.append(whole_steps)
        raise StopIteration

    monkeypatch.setattr("lost.backends.torch.distributed.sharded.Sharded", sharded)
    with pytest.raises(StopIteration):
        TorchEngine(config(), "cpu", Group())
    assert chosen == [False]
