"""The tokens that end a text, where a model has several: kept from its folder to an export of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import SIZES, checkpoint_of

from lost.checkpoint import TrainState, write
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import CheckpointError
from lost.interop.from_hf import open_folder
from lost.interop.from_hf.conversion import write_unchanged
from lost.interop.rewrite import rewrite
from lost.interop.source import open_source
from lost.interop.special_tokens import with_ends
from lost.interop.to_hf.folder import export
from lost.model.init import initial_values
from lost.reshape.grow.checkpoint import grow
from lost.reshape.grow.target import sizes
from lost.reshape.merge import Part, averaged, write_merged
from lost.tokenizer import train_tokenizer

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


def test_what_is_made_of_its_weights_has_them(theirs: Path, tmp_path: Path) -> None:
    """Grown, or averaged: the tokens are the same."""
    (theirs / NAMES[1]).write_text(json.dumps({"eos_token_id": [7, 1]}))
    first = write_unchanged(open_folder(theirs), tmp_path / "first")
    grown, _ = grow(first, tmp_path / "grown", sizes(["intermediate=128"]))
    halves = [Part(first, 0.5), Part(first, 0.5)]
    merged = write_merged(halves, tmp_path / "merged", first.config, averaged(halves))
    for each in (grown, merged):
        assert open_source(each.path).ends == (7, 1)
        assert told(export(each, tmp_path / f"{each.path.name}-out", "hf").path) == [[7, 1]] * 2


def test_other_vocabularies_have_those_they_know(lost: Callable, config: Callable[..., Config], tmp_path: Path) -> None:
    """By what they stand for: a pruned one keeps them, though no text needs them; another may lack some."""
    texts = [f"the {'rank of a layer ' * 9} and data from {'sparse tokens ' * 9}"] * 20
    before, settings = train_tokenizer(texts, 330), config(model={"vocab_size": 336})
    spelled = {entry.text: number for number, entry in before.entries().items()}
    rank, sparse = spelled[b" rank"], spelled[b" sparse"]
    ends = (sparse, before.end_of_text, rank, 335)  # the last is padding, which has no text
    tokenizer = with_ends(before, ends)
    source = write(tmp_path / "source", initial_values(settings), (), settings, TrainState(), tokenizer)
    assert open_source(source.path).ends == ends
    (tmp_path / "kept.txt").write_text("the rank of a layer")
    other = tmp_path / "other"
    other.mkdir()
    train_tokenizer([text.replace("sparse", "dense") for text in texts], 330).save(other)
    for options, kept in (
        (("--prune-vocab", tmp_path / "kept.txt"), [b" sparse", b" rank"]),
        (("--tokenizer", other), [b" rank"]),
    ):
        out = tmp_path / options[0].strip("-")
        answer = lost("convert", source.path, out, *options)
        assert answer.code == 0, answer.err
        after = open_source(out)
        entries, end = after.tokenizer().entries(), after.tokenizer().end_of_text
        assert [entries[number].text for number in after.ends if number != end] == kept
        assert end in after.ends
