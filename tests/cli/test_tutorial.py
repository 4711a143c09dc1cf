"""The tutorial's commands, one after the other as they stand there, but on a small text and for a few steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.slow
def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    page = PAGE.read_text()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    lines = [line for line in lines if line.startswith("lost ")]
    assert {line.split()[1] for line in lines} >= {
        "prepare",
        "config",
        "plan",
        "train",
        "plot",
        "report",
        "eval",
        "convert",
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    small = str(Path(json.__file__).parent)
    for line in lines:
        line = re.sub(r'"\$\(python -c .*?\)"', small, line).replace("--vocab-size 4096", "--vocab-size 600")
        line = line.replace("--hours 1", "--hours 0.01")
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if line.endswith("mine.yaml") and "config" in line:
            config = tmp_path / "mine.yaml"
            short = re.sub(r"steps: 250", "steps: 12", config.read_text()).replace(
                "warmup_steps: 25", "warmup_steps: 2"
            )
            config.write_text(short.replace("batch_size: 8", "batch_size: 2").replace("seq_len: 256", "seq_len: 64"))
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "def read(self, path):" in done.stdout
