"""Exports that must not be: of what others would read as another model, over what is there, of what can't be merged."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lost.checkpoint import Checkpoint
from lost.config import Config
from lost.errors import ExportError
from lost.interop import layout
from lost.interop.to_hf import description
from lost.interop.to_hf import folder as folder_module
from lost.interop.to_hf.check import READERS
from lost.interop.to_hf.folder import export
from lost.storage.arrays import NamedArrays


def test_a_failed_check_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, exported: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    """A wrong gamma, weights under a wrong name, a token that is cut elsewhere: each is found, and the folder goes."""
    stored = description.stored_layers

    def other_gamma(settings: Config) -> dict:
        return {name: {**each, "gamma": 0.69} for name, each in stored(settings).items()}

    def other_names(settings: Config, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        return ((name.replace("q_proj", "p_proj"), array) for name, array in layout.renamed(settings, arrays))

    for where, name, wrong, message in (
        (description, "stored_layers", other_gamma, "log-probabilities differ from ours"),
        (folder_module, "renamed", other_names, "doesn't load the export completely: {'missing_keys'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, wrong)
            with pytest.raises(ExportError, match=message):
                export(exported[0], tmp_path / "out", "hf")
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    with monkeypatch.context() as patch:
        patch.setattr(type(exported[0].tokenizer()), "encode", lambda self, text: np.array([5, 6]))
        with pytest.raises(ExportError, match="token ids"):
            export(exported[0], tmp_path / "out", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_without_readers_it_says_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch, lost: Callable, exported: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    for module in READERS.values():
        monkeypatch.setitem(sys.modules, module, None)
    done = lost("convert", exported[0].path, tmp_path / "out", "--to", "mlx-lm", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["checked"], answer["checks"]) == (False, [])
    assert "was NOT checked" in done.err
    assert "not checked with mlx-lm" in done.err


def test_bad_input(lost: Callable, exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    path, out = exported[0].path, tmp_path / "out"
    mine, beside = tmp_path / "mine", tmp_path / "beside"
    shutil.copytree(exported[1], beside)
    (beside / "LICENSE").write_text("mine")
    mine.mkdir()
    (mine / "config.json").write_text('{"thesis": "years"}')
    for arguments, wrong in (
        ((path, mine, "--to", "hf"), "already exists; expected a new folder"),
        ((path, mine, "--to", "hf", "--overwrite"), "is not an export"),
        ((path, beside, "--to", "hf", "--overwrite"), "holds LICENSE, which would go with it"),
        ((path, out, "--to", "dense"), "have an activation inside"),
        ((path, out, "--to", "hf", "--weights-only"), "exports never hold an optimizer state"),
        ((tmp_path, out, "--to", "hf"), "holds no usable checkpoint"),
        ((path, mine / "config.json" / "sub", "--to", "hf"), "could not be written"),
        (
            (exported[1], out, "--from", "hf", "--to", "dense"),
            "--to dense with --from hf: expected one thing",
        ),
    ):
        done = lost("convert", *arguments)
        assert done.code == 2, done.err
        assert wrong in done.err
    assert not out.exists()
    assert (mine / "config.json").read_text() == '{"thesis": "years"}'
    shutil.copytree(exported[1], out)
    assert lost("convert", path, out, "--to", "hf", "--overwrite", "--dtype", "bfloat16").code == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
