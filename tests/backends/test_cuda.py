"""What is done for CUDA, tried without a card: the calls of PyTorch that are made, and with what."""

import pytest
import torch
from processes import run_python

from lost.backends.torch import devices

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
