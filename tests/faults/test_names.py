"""Names of files that aren't UTF-8: bytes, to the system; text that can't be encoded, to Python."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.data.dataset import Dataset

Lost = Callable[..., Any]
NAME = os.fsdecode(b"caf\xe9")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")


def test_of_text_and_of_what_is_prepared(lost: Lost, text_folder: Path, prepared: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    for path in text_folder.iterdir():
        (folder / f"{NAME}-{path.name}").write_bytes(path.read_bytes())
    (folder / f"{NAME}.bin").write_bytes(b"\0\xff")
    answer = lost("prepare", folder, "--out", tmp_path / f"{NAME}-data", "--tokenizer", prepared.path)
    assert answer.code == 0, answer.err
    assert "caf\\udce9.bin" in answer.err  # left out, and named
    assert Dataset(tmp_path / f"{NAME}-data").split("train").documents > 0


def test_of_a_run_folder(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    run = tmp_path / f"{NAME}-run"
    for steps in (10, 20):
        command = ("train", tiny_yaml, "--data", prepared.path, "--out", run, "--set", f"train.stop_after={steps}")
        answer = lost(*command)
        assert answer.code == 0, answer.err
    assert "caf\\udce9-run" in (run / "log.txt").read_text()
    for command in (("eval", run), ("verify", run), ("inspect", run)):
        assert lost(*command).code == 0, command


def test_of_data_which_a_configuration_names(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / f"{NAME}-there")
    (tmp_path / f"{NAME}-there").mkdir()
    for path in prepared.path.iterdir():
        (tmp_path / NAME / path.name).write_bytes(path.read_bytes())
    answer = lost("train", tiny_yaml, "--data", tmp_path / NAME, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "is not UTF-8, and a configuration names its data" in answer.err
