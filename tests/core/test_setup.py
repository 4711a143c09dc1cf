"""setup.sh on machines that aren't here: each has commands of its own in front of the path."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "setup.sh"
LINUX = {"uname": "echo Linux"}
MAC = {
    "uname": "case $1 in -m) echo arm64;; *) echo Darwin;; esac",
    "sw_vers": "echo 15.1",
    "sysctl": "echo 0",
}
# An interpreter that will do: it says so, makes a .venv that holds itself, and notes what is installed.
GOOD = """case "$*" in
*platform*) echo arm64 ;;
*venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo made >> log ;;
*pip*) echo "$*" >> log ;;
esac"""
OLD = 'case "$*" in *print*) echo is Python 3.9.6 ;; *) exit 1 ;; esac'


def run(folder: Path, commands: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the script in a folder, where these commands are found before the system's, and no Python is but theirs."""
    place = folder / "commands"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in ("sh", "mkdir", "cp", "rm", "touch", "dirname"):
        (place / name).symlink_to(shutil.which(name) or name)
    for name, text in commands.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    shutil.copy(SETUP, folder)
    return subprocess.run(
        ["/bin/sh", folder / "setup.sh", "mlx"], env={"PATH": str(place), **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (MAC | {"sysctl": "echo 1"}, "runs under Rosetta"),
        (MAC | {"uname": "case $1 in -m) echo x86_64;; *) echo Darwin;; esac"}, "this is an Intel Mac"),
        (MAC | {"sw_vers": "echo 13.6.1"}, "this is macOS 13.6.1; expected 14 or newer"),
        (MAC | {"python3": OLD}, "python3 is Python 3.9.6; expected Python 3.11 to 3.14: install one (`brew install"),
        (MAC | {"python3": GOOD.replace("arm64", "x86_64")}, "python3 is built for Intel Macs"),
        (LINUX, "python3 isn't there; expected Python 3.11 to 3.14"),
    ],
)
def test_what_a_machine_lacks_is_said(tmp_path: Path, commands: dict[str, str], words: str) -> None:
    answer = run(tmp_path, commands)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"setup: {words}" if "python3" in words else "setup: ")
    assert words in answer.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_python_is_found_and_a_named_one_taken(tmp_path: Path) -> None:
    assert run(tmp_path / "a", LINUX | {"python3": OLD, "python3.12": GOOD}).returncode == 0
    named = run(tmp_path / "b", LINUX | {"python3": GOOD, "mine": OLD}, PYTHON="mine")
    assert (named.returncode, "mine is Python 3.9.6" in named.stderr) == (2, True)


def test_a_finished_environment_is_added_to_and_an_interrupted_one_made_anew(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, LINUX | {"python3": GOOD}).returncode == 0
    log = (tmp_path / "log").read_text().splitlines()
    assert [line for line in log if line == "made"] == ["made"]
    assert all(line.endswith("-c constraints.txt -e .[mlx]") for line in log if line != "made")
    (tmp_path / ".venv" / ".finished").unlink()
    run(tmp_path, LINUX | {"python3": GOOD})
    assert (tmp_path / "log").read_text().splitlines().count("made") == 2
    assert os.access(tmp_path / ".venv" / "bin" / "python", os.X_OK)
