"""The tokens that end a text, where a model has several: kept from its folder to an export of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import SIZES, checkpoint_of

from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import CheckpointError
from lost.interop.from_hf import open_folder
from lost.interop.from_hf.conversion import write_unchanged
from lost.interop.rewrite import rewrite
from lost.interop.source import open_source
from lost.interop.to_hf.folder import export

NAMES = ("config.json", "generation_config.json")


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch, config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> Path:
    """A folder whose model ends a text with end-of-text, which is 1."""
    monkeypatch.setattr("lost.interop.to_hf.folder.READERS", {})
    settings = config(projection={"kind": "dense"}, model=SIZES)
    return export(checkpoint_of(settings, tmp_path / "source", prepared), tmp_path / "theirs", "hf").path


def told(folder: Path) -> list[object]:
    return [json.loads((folder / name).read_text())["eos_token_id"] for name in NAMES]


def test_they_come_back(theirs: Path, tmp_path: Path) -> None:
    """Through a checkpoint, and one in another type; ids that the model lacks are none."""
    assert told(theirs) == [1, 1]
    assert open_source(theirs).ends == (1,)
    (theirs / NAMES[1]).write_text(json.dumps({"eos_token_id": [7, 1, 9, 320, "x"]}))
    assert open_source(theirs).ends == (7, 1, 9)
    first = write_unchanged(open_folder(theirs), tmp_path / "first")
    second = rewrite(first, tmp_path / "second", "bfloat16")
    for each in (first, second):
        assert open_source(each.path).ends == (7, 1, 9)
        assert told(export(each, tmp_path / f"{each.path.name}-out", "hf").path) == [[7, 1, 9]] * 2
    assert open_source(tmp_path / "source").ends == ()


def test_config_json_says_them_too(theirs: Path) -> None:
    """Where nothing else does, as transformers has it."""
    (theirs / NAMES[1]).write_text("{}")
    described = json.loads((theirs / NAMES[0]).read_text())
    (theirs / NAMES[0]).write_text(json.dumps({**described, "eos_token_id": [9, 8]}))
    assert open_source(theirs).ends == (9, 8)
    (theirs / NAMES[1]).write_text("[")
    with pytest.raises(CheckpointError, match=r"generation_config.json can't be read"):
        open_source(theirs)


def test_end_of_text_is_always_among_them(theirs: Path, tmp_path: Path) -> None:
    (theirs / NAMES[1]).write_text(json.dumps({"eos_token_id": 9}))
    written = write_unchanged(open_folder(theirs), tmp_path / "written")
    assert told(export(written, tmp_path / "out", "hf").path) == [[9, 1]] * 2
