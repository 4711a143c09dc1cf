"""Helpers and fixtures of the fault tests."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import run_python

from lost.data.dataset import Dataset
from lost.storage.files import read_sealed_json, seal


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> Path:
    """A run of 20 steps, with its checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(tiny_text)
    command = ["train", folder / "tiny.yaml", "--data", prepared.path, "--out", folder / "run", "--device", "cpu"]
    run_python("-m", "lost", *command, check=True)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    shutil.copytree(whole / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def texts(tmp_path: Path, text_folder: Path) -> Path:
    """Files and lines, some to hold out of their own."""
    folder = tmp_path / "texts"
    shutil.copytree(text_folder, folder)
    lines = [json.dumps({"text": path.read_text() + str(n)}) for n, path in enumerate(sorted(folder.iterdir()))]
    (folder / "more.jsonl").write_text("\n".join(lines * 2))
    return folder


@pytest.fixture
def reseal() -> Callable[..., None]:
    """Write a checkpoint's manifest anew, as a stranger would: changed by a function, files sealed as they are now."""

    def write(checkpoint: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
        manifest = read_sealed_json(checkpoint / "manifest.json")
        manifest["files"] = {name: seal((checkpoint / name).read_bytes()) for name in manifest["files"]}
        change(manifest)
        content = {key: value for key, value in manifest.items() if key != "seal"}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (checkpoint / "manifest.json").write_text(json.dumps({**content, "seal": digest}))

    return write
