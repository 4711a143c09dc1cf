"""What this machine grants, on Linux and where it is as on macOS: free memory, open files, flushing to the disk."""

import fcntl
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lost.storage.files import flush
from lost.utils import machine


def test_free_memory_by_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   300 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    assert machine.available_bytes() == 300 * 1024


def test_free_memory_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=12345))
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert machine.available_bytes() == 12345
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert machine.available_bytes() == machine.memory_bytes() // 2


def test_a_machine_without_proc(lost: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what else Linux has: control groups, affinities."""
    exists, asked = Path.exists, []

    def absent(path: Path, **options: bool) -> bool:
        elsewhere = not str(path).startswith(("/proc", "/sys"))
        asked.extend([] if elsewhere else [str(path)])
        return elsewhere and exists(path, **options)

    monkeypatch.setattr(Path, "exists", absent)
    monkeypatch.setattr(machine, "_CGROUP", Path("/sys/none"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.processors() == machine.cores() == os.cpu_count()
    assert machine.processor_name()
    assert 0 < machine.available_bytes() <= machine.memory_bytes()
    assert {"/proc/meminfo", "/proc/cpuinfo"} <= set(asked) or sys.platform == "darwin"
    assert lost("doctor", "--json").code == 0


@pytest.fixture
def few_files() -> Iterator[int]:
    """As a shell of macOS has it; the hard limit is given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_command_may_open_many_files(lost: Callable[..., Any], few_files: int) -> None:
    assert lost("config", "--explain", "optimizer.lr").code == 0
    most = 10240 if few_files == resource.RLIM_INFINITY else min(10240, few_files)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, few_files)


def test_a_system_that_grants_no_more(few_files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*limits: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    with monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", refused)
        machine.allow_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256


@pytest.mark.parametrize("supported", [True, False])
def test_flushing_on_macos(supported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, through the drive's cache; a share that can't do that is flushed as elsewhere."""
    done = []

    def full(handle: int, command: int) -> None:
        done.append(command)
        if not supported:
            raise OSError("Operation not supported")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("fsync"))
    (tmp_path / "file").touch()
    flush(tmp_path / "file")
    assert done == ([51] if supported else [51, "fsync"])
