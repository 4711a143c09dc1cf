"""Commands in README, CONTRIBUTING and docs can be pasted into an interactive zsh, the shell of Macs.

It takes `#` for a word, fails where a pattern with `*`, `?` or `[` matches no file, and reads `=word` as a program's
path and `!word` as one of the commands before. Where there is a zsh, it is asked.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "console", "bash", "text", "python", "yaml", "toml", "mermaid"}  # bash: a file, not to be pasted
QUOTED = re.compile(r"'[^']*'|\"[^\"!]*\"|\\.", re.DOTALL)
TRAP = re.compile(r"[#*?\[\]!]|(?<!\S)=\S")
TRAPS = [
    "make demo  # minutes",
    "# see above",
    "pip install .[mlx]",
    "eval RUN --tasks blimp*",
    "echo =ls",
    'echo "a!b"',
]
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language of each fenced block, and what is in it."""
    return re.findall(r"^```(.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def typed(text: str) -> list[str]:
    """The commands of a page, each on one line."""
    found = []
    for language, content in blocks(text):
        lines = content.replace("\\\n", "").splitlines()
        found += {"sh": lines, "console": [line[2:] for line in lines if line.startswith("$ ")]}.get(language, [])
    return found


def traps(text: str) -> list[str]:
    """Characters outside quotes that an interactive zsh doesn't take as they stand in the commands of a page."""
    return [f"{trap}: {line}" for line in typed(text) for trap in TRAP.findall(QUOTED.sub("", line))]


def words(lines: list[str], folder: Path, *options: str) -> str:
    """The words that zsh gives to each command: it finds no program, and prints them instead."""
    assert not [line for line in lines if line.startswith(("/", ".", "~", "export PATH"))], "it would start these"
    told = ["command_not_found_handler() { printf '<%s>' \"$@\"; echo; }", "cd() { echo $1; }", "source() { echo $1; }"]
    text = "\n".join([*told, "PATH=/none PS1= PS2=", *lines, ""])
    program = [shutil.which("zsh") or "zsh", *options, "-f"]
    ran = subprocess.run(program, input=text, cwd=folder, env={}, capture_output=True, text=True, check=False)
    return ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_pasted_into_zsh(page: Path) -> None:
    assert traps(page.read_text()) == []
    assert {language for language, _ in blocks(page.read_text())} <= LANGUAGES, "say what a block is: sh, text, ..."


@pytest.mark.parametrize("line", TRAPS)
def test_traps_are_found(line: str) -> None:
    assert traps(f"```sh\n{line}\n```\n")
    assert traps(f"```console\n$ {line}\nloss [1]\n```\n")
    assert not traps(f"```text\n{line}\n```\n")


@needs_zsh
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_zsh_reads_them_as_sh_does(page: Path, tmp_path: Path) -> None:
    lines = typed(page.read_text())
    read = words(lines, tmp_path, "-i")
    assert read == words(lines, tmp_path, "--emulate", "sh")
    assert read or not lines


@needs_zsh
@pytest.mark.parametrize("line", TRAPS)
def test_zsh_reads_traps_otherwise(line: str, tmp_path: Path) -> None:
    assert words([line], tmp_path, "-i") != words([line], tmp_path, "--emulate", "sh")
