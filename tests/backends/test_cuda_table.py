"""The table of a card, `benchmarks/cuda`: each part comes to its end, on a CPU, at sizes that say nothing."""

import fcntl
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from processes import run_python

CUDA = Path(__file__).parents[2] / "benchmarks" / "cuda"


@pytest.mark.slow
def test_every_part_comes_to_its_end(tmp_path: Path) -> None:
    run_python(CUDA, "--device", "cpu", "--small", "--out", tmp_path, "--minutes", "60", cold=True, check=True)
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(found) == 9
    assert {name: each.get("stopped") for name, each in found.items()} == dict.fromkeys(found)
    assert (tmp_path / "README.md").read_text().count("\n## ") == 9


STARTS_ANOTHER = """
import subprocess, sys
locking = "import fcntl, sys, time; fcntl.flock(0, fcntl.LOCK_EX); time.sleep(60); open(sys.argv[1], 'w')"
subprocess.run([sys.executable, "-c", locking, sys.argv[1] + "-ended"], stdin=open(sys.argv[1]))
"""


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    """Else it would compute beside the next part: here it would keep a lock."""
    spec = importlib.util.spec_from_file_location("cuda", CUDA / "__main__.py")
    assert spec
    assert spec.loader
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    (tmp_path / "lock").touch()
    assert main.called([sys.executable, "-c", STARTS_ANOTHER, str(tmp_path / "lock")], 1.5)[0] is None
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system takes a moment to end it
    assert not (tmp_path / "lock-ended").exists()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(CUDA)
    before = set(sys.modules)
    import resume
    import steps

    yield {"resume": resume, "steps": steps}
    for name in set(sys.modules) - before:
        if name in {"resume", "steps", "part"}:
            del sys.modules[name]


def test_what_failed_has_a_row_with_the_reason(table: dict[str, object]) -> None:
    answer = {"model": "llama_1b", "kinds": ["dense", "lost"], "sets": [], "reason": "needs 90 GiB | has 80"}
    rows = table["steps"].lines({"answers": [answer]})[2:]  # type: ignore[attr-defined]
    assert [row.split(" | ")[2] for row in rows] == ["dense", "lost"]
    assert all(row.endswith("needs 90 GiB / has 80 |") for row in rows)


def test_equal_to_the_bit_is_told_from_close(table: dict[str, object]) -> None:
    form = {
        "compiled": True,
        "deterministic": False,
        "seconds": 0.01,
        "repeated": {"arrays": 9, "differ": 0, "most": 0},
    }
    (row,) = table["resume"].lines(  # type: ignore[attr-defined]
        {"steps": 20, "forms": [form | {"resumed": {"arrays": 9, "differ": 2, "most": 3e-7}}]}
    )[2:]
    assert "all 9 arrays to the bit" in row
    assert "2 of 9 arrays, by 3.0e-07" in row
