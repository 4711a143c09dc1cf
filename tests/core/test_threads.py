"""How many threads compute: by affinity, by a container's quota, as asked for; and what is said of a busy machine."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lost.utils import machine, threads


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """An environment that says nothing, on four processors, and what PyTorch was told to do."""
    for name in threads._NUMBERS:
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    told: dict[str, int] = {}
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=lambda number: told.update(torch=number)))
    for module in (machine, threads):
        monkeypatch.setattr(module, "processors", lambda: 4)
    return told


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({}, 4),
    ],
)
def test_a_containers_quota(
    files: dict[str, str], expected: int, untouched: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.cores() == expected
    threads.use_threads(None)
    assert untouched == ({"torch": expected} if expected < 4 else {})  # else the libraries choose, as they always did
    assert threads.threads_asked_for() == expected


def test_what_is_asked_for(untouched: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    threads.use_threads(3)
    assert untouched == {"torch": 3}
    assert {os.environ[name] for name in threads._NUMBERS} == {"3"}
    monkeypatch.setattr(threads, "cores", lambda: 1)
    threads.use_threads(None)
    assert untouched == {"torch": 3}  # the environment has said it


@pytest.mark.parametrize(
    ("load", "number", "advice"), [(0.3, 4, None), (1.0, 4, None), (2.4, 4, 2), (9.0, 4, 1), (9.0, 1, None)]
)
def test_a_busy_machine(
    load: float, number: int, advice: int | None, untouched: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    said = threads.busy_remark(number)
    assert said is None if advice is None else f"--threads {advice} " in said
