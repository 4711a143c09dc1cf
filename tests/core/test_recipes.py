"""Recipes of data sets: those that ship, and a user's own, tried on a folder laid out like a repository of the hub."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lost.data.dataset import Dataset
from lost.prepare.recipes import Recipe, find_recipe, shipped

MINE = "hub: hf://{}\nlicense: mine\ntext_key: body\nsplit: all\nvalid_split: validation\n"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, count in (("all", 30), ("validation", 9)):
        texts = [f"{split} {number} of the rank" for number in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"body": texts}), folder / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - {split: all, path: all-*}\n  - {split: validation, path: validation-*}\n---\n"
    )
    return folder


def test_what_ships() -> None:
    """The sets that people ask for, each with all that `load_dataset` needs, and a line that says what it is."""
    recipes = {name: find_recipe(name) for name in shipped()}
    assert recipes == {
        "tinystories": Recipe(hub="hf://roneneldan/TinyStories", valid_split="validation", license="CDLA-Sharing-1.0"),
        "fineweb-edu-10bt": Recipe(
            hub="hf://HuggingFaceFW/fineweb-edu", config="sample-10BT",
            license="ODC-By 1.0, and Common Crawl's terms of use",
        ),
        "c4-en": Recipe(
            hub="hf://allenai/c4", config="en", valid_split="validation",
            license="ODC-By 1.0, and Common Crawl's terms of use",
        ),
    }  # fmt: skip


def test_prepared_by_a_file_and_by_name(
    lost: Callable, prepared: Dataset, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE.format(hub))
    monkeypatch.chdir(tmp_path)
    answer = lost("prepare", "mine.yaml", "--tokenizer", prepared.path, "--max-documents", 20, "--json")
    assert answer.code == 0, answer.err
    assert f"mine.yaml: hf://{hub}, license: mine" in answer.err
    value = json.loads(answer.out)
    assert value["path"] == "data/mine"
    assert (value["train"]["documents"], value["valid"]["documents"]) == (20, 9)
    origin = json.loads(Path("data/mine/dataset.json").read_text())["origin"]
    assert (origin["sources"], origin["split"], origin["max_documents"]) == ([f"hf://{hub}"], "all", 20)

    monkeypatch.setattr("lost.prepare.recipes._SHIPPED", tmp_path)
    answer = lost("prepare", "mine", "--tokenizer", prepared.path, "--valid-fraction", 0.1, "--out", "out")
    assert answer.code == 0, answer.err
    assert Dataset(tmp_path / "out").split("train").documents == 27  # whose split is named, is held out otherwise


def test_an_option_goes_before_the_recipe(
    lost: Callable, prepared: Dataset, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that equals its default too."""
    (tmp_path / "mine.yaml").write_text(MINE.format(hub))
    monkeypatch.chdir(tmp_path)
    common = ("prepare", "mine.yaml", "--tokenizer", prepared.path)
    for arguments, named in [
        (("--split", "train"), "Bad split: train"),
        (("--text-key", "text"), "no text under 'text' (found: body)"),
    ]:
        answer = lost(*common, *arguments)
        assert answer.code == 2
        assert named in answer.err


def test_refused(lost: Callable, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    cases = [
        ("hub: hf://a/b\n", "license: Field required; expected a recipe"),
        ("hub: hf://a/b\nlicense: x\ntextkey: y\n", "x.yaml:3: textkey: Extra inputs are not permitted"),
        ("hub: a/b\nlicense: x\n", "x.yaml:1: hub = 'a/b'; expected hf://owner/name"),
        ("hub: [\n", "can't be read as YAML"),
        ("hub: 3\nlicense: x\n", "x.yaml:1: hub: Input should be a valid string"),
        ("- a\n- b\n", "x.yaml holds ['a', 'b'], without keys; expected hub, license, config, split"),
    ]
    for content, named in cases:
        (tmp_path / "x.yaml").write_text(content)
        answer = lost("prepare", "x.yaml")
        assert answer.code == 2
        assert named in answer.err
    for arguments, named in [
        (("tinystory",), "did you mean 'tinystories'? expected a text"),
        (("tinystories", "a.txt"), "tinystories is a recipe, and stands alone; prepare a.txt apart"),
        (("a.txt", "tinystories"), "tinystories is a recipe, and stands alone; prepare a.txt apart"),
        (("tinystories", "--examples"), "tinystories is a recipe, of text, and has no examples"),
        (("a.txt", "--split", "train"), "--split given, but all text is local"),
    ]:
        answer = lost("prepare", *arguments)
        assert answer.code == 2
        assert named in " ".join(answer.err.split())
    assert not (tmp_path / "data").exists()


def test_listed(lost: Callable) -> None:
    answer = lost("prepare", "--recipes")
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["c4-en", "fineweb-edu-10bt", "tinystories"]
    assert all(len(line.split(": ", 1)[1]) > 20 for line in answer.out.splitlines())
    for arguments in (("--recipes", "--json"), ("--json", "--recipes")):
        told = json.loads(lost("prepare", *arguments).out)["recipes"]
        assert [f"{each['name']}: {each['about']}" for each in told] == answer.out.splitlines()
        assert told[0]["hub"] == "hf://allenai/c4"


def test_without_a_network(lost: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there later, which the exit code says."""
    import datasets

    def fail(*arguments: object, **more: object) -> None:
        raise ConnectionError("Couldn't reach 'roneneldan/TinyStories' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    answer = lost("prepare", "tinystories")
    assert answer.code == 75
    assert "tinystories: hf://roneneldan/TinyStories, license: CDLA-Sharing-1.0" in answer.err
    assert "can't be reached" in answer.err
