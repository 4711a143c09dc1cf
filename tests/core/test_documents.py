"""Commands in README, CONTRIBUTING and docs can be pasted into an interactive zsh, the shell of Macs.

It takes `#` for a word, fails where a pattern with `*`, `?` or `[` matches no file, and reads `=word` as a program's
path and `!word` as one of the commands before.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "console", "bash", "text", "python", "yaml", "toml", "mermaid"}  # bash: a file, not to be pasted
QUOTED = re.compile(r"'[^']*'|\"[^\"!]*\"|\\.", re.DOTALL)
TRAP = re.compile(r"[#*?\[\]!]|(?<!\S)=\S")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language of each fenced block, and what is in it."""
    return re.findall(r"^```(.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def traps(text: str) -> list[str]:
    """Characters outside quotes that an interactive zsh doesn't take as they stand in the commands of a page."""
    found = []
    for language, content in blocks(text):
        lines = content.replace("\\\n", "").splitlines()
        typed = {"sh": lines, "console": [line[2:] for line in lines if line.startswith("$ ")]}.get(language, [])
        found += [f"{trap}: {line}" for line in typed for trap in TRAP.findall(QUOTED.sub("", line))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_pasted_into_zsh(page: Path) -> None:
    assert traps(page.read_text()) == []
    assert {language for language, _ in blocks(page.read_text())} <= LANGUAGES, "say what a block is: sh, text, ..."


@pytest.mark.parametrize(
    "line",
    ["make demo  # minutes", "# see above", "pip install .[mlx]", "eval RUN --tasks blimp*", "echo =ls", 'echo "a!b"'],
)
def test_traps_are_found(line: str) -> None:
    assert traps(f"```sh\n{line}\n```\n")
    assert traps(f"```console\n$ {line}\nloss [1]\n```\n")
    assert not traps(f"```text\n{line}\n```\n")
