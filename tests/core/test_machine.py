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


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000000\n", "memory.current": "600000\n"}, (10**6, 600_000)),  # a container's root
        ("0::/job\n", {"job/memory.max": "1000000", "job/memory.current": "900000"}, (10**6, 300_000)),  # Slurm's
        ("0::/job/1\n", {"job/memory.max": "1000000", "job/memory.current": "100", "job/1/memory.max": "max"},
         (10**6, 900 * 1024)),  # no more than the machine has
        ("3:cpu:/x\n5:hugetlb,memory:/job\n", {"memory/job/memory.limit_in_bytes": "1000000",
         "memory/job/memory.usage_in_bytes": "950000"}, (10**6, 250_000)),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "600000\n"}, (None, 900 * 1024)),
        ("5:memory:/job\n", {}, (None, 900 * 1024)),
    ],
)  # fmt: skip
def test_a_containers_memory(
    groups: str,
    files: dict[str, str],
    expected: tuple[int | None, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what it uses, 200,000 bytes are files', which make way."""
    whole = machine.memory_bytes()
    (tmp_path / "meminfo").write_text("MemAvailable:   900 kB\n")
    (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).with_name("memory.stat").write_text(
            "anon 5\ninactive_file 200000\ntotal_inactive_file 200000\n"
        )
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert (machine.memory_bytes(), machine.available_bytes()) == (expected[0] or whole, expected[1])


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
