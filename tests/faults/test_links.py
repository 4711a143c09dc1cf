"""Folders of strangers, full of links: nothing is written, removed or read outside, and nothing waits for ever."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_python

from lost.checkpoint import find_checkpoint
from lost.data.dataset import Dataset
from lost.errors import CheckpointError, DataError, InterruptedAtOnceError, StorageError
from lost.interop.from_hf import open_folder
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.files import partial_folder, read_sealed_json, sealed_json
from lost.storage.lock import locked
from lost.storage.nofollow import open_new, open_update, remove
from lost.tokenizer import load_tokenizer

Lost = Callable[..., Any]
REPLACED = (
    "log.txt",
    "config.yaml",
    "latest",
    *(f".partial-{name}" for name in ("metrics.jsonl", "config.yaml", "latest")),
)
LINKS = pytest.mark.parametrize("link", [os.symlink, os.link])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the user's."""
    path = tmp_path / "outside.txt"
    path.write_text("export PATH\n")
    return path


@LINKS
@pytest.mark.parametrize("more", [(), ("--fresh", "--overwrite")])
def test_a_run_writes_nothing_through_links(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, outside: Path, more: tuple[str, ...], link: Any
) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000020")  # something is left to train
    for name in REPLACED:
        (run / name).unlink(missing_ok=True)
        link(outside, run / name)
    answer = lost("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run, *more)
    assert answer.code == 0, answer.err
    assert outside.read_text() == "export PATH\n"
    assert not (run / "config.yaml").is_symlink()


@pytest.mark.parametrize(
    ("name", "link"), [(".lock", os.symlink), (".lock", os.link), ("metrics.jsonl", os.symlink)], ids=str
)
def test_a_run_begins_with_no_link_that_it_needs(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, outside: Path, name: str, link: Any
) -> None:
    (run / name).unlink(missing_ok=True)
    link(outside, run / name)
    command = ("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run)
    for more in (("--dry-run",), ()):
        answer = lost(*command, *more)
        assert answer.code == 2, answer.err
        assert "links are not followed here" in answer.err or "has another name" in answer.err
    assert outside.read_text() == "export PATH\n"


@pytest.mark.parametrize("more", [(), ("--fresh", "--overwrite")])
def test_a_folder_of_checkpoints_that_leads_elsewhere(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, tmp_path: Path, more: tuple[str, ...]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run / "checkpoints").rename(elsewhere)
    (elsewhere / ".partial-mine").mkdir()
    (run / "checkpoints").symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    for command in (
        ("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run, *more),
        ("train", run, "--dry-run", *more),
        ("eval", run),
        ("inspect", run),
    ):
        answer = lost(*command)
        assert answer.code == 2, command
        assert "links are not followed here" in answer.err
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("name", ["manifest.json", "model-00001.safetensors", "tokenizer.model"])
def test_a_checkpoint_of_links_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    newest = run / "checkpoints" / "step-00000020"
    (newest / name).rename(tmp_path / "elsewhere")
    (newest / name).symlink_to(tmp_path / "elsewhere")
    found, rejected = find_checkpoint(run)
    assert found.path.name == "step-00000010"
    assert str(newest / name) in rejected[0]
    assert "link" in rejected[0]


def test_a_checkpoint_that_is_a_link_is_none_of_the_run(run: Path, tmp_path: Path) -> None:
    newest = run / "checkpoints" / "step-00000020"
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert find_checkpoint(run)[0].path.name == "step-00000010"
    assert find_checkpoint(newest)[0].progress.step == 20  # named by the user


@pytest.mark.parametrize("name", ["dataset.json", "train-00000.bin", "tokenizer.model"])
def test_a_prepared_set_of_links_is_refused(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared.path, data)
    (data / name).unlink()
    (data / name).symlink_to(prepared.path / name)
    answer = lost("train", tiny_yaml, "--data", data, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "link" in answer.err


@pytest.mark.parametrize("place", ["manifest.json", "model-00001.safetensors", "../../.lock", "../../metrics.jsonl"])
def test_a_pipe_is_not_waited_for(run: Path, prepared: Dataset, place: str) -> None:
    newest = run / "checkpoints" / "step-00000020"
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    (newest / place).unlink(missing_ok=True)
    os.mkfifo(newest / place)
    for command in (["verify", run], ["train", run, "--data", prepared.path]):
        done = run_python("-m", "lost", *command)
        assert done.returncode in (0, 2), done.stderr
        assert "defect" not in done.stderr
    assert "not a regular file" in done.stdout + done.stderr


def test_what_is_logged_steers_no_terminal(run: Path, reseal: Callable[..., None], lost: Lost, whole: Path) -> None:
    name = "x\n\x1b]0;owned\x07; rm -rf ~ #\u202e"  # of a file that is missing, and so is named as it is
    entry = {"size": 1, "sha256": "0"}
    reseal(run / "checkpoints" / "step-00000020", lambda manifest: manifest["files"].update({name: entry}))
    answer = lost("train", run, "--set", "train.stop_after=11")
    assert answer.code == 0, answer.err
    log = (run / "log.txt").read_text()
    assert "skipped: " in log
    for text in (log, answer.out):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert not any(line.startswith(("x", "\\x1b", ";")) for line in log.splitlines())


def test_prepare_empties_no_folder_behind_a_link(lost: Lost, text_folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("mine")
    partial_folder(tmp_path / "data").symlink_to(theirs)
    answer = lost("prepare", text_folder, "--out", tmp_path / "data", "--vocab-size", "320")
    assert answer.code == 2
    assert "links are not followed here" in answer.err
    assert [path.name for path in theirs.iterdir()] == ["thesis.tex"]


def test_prepare_writes_nothing_through_what_is_left_in_its_folder(
    text_folder: Path, tmp_path: Path, outside: Path
) -> None:
    partial = partial_folder(tmp_path / "data")
    partial.mkdir()
    for name in ("train-00000.bin", "dataset.json", "tokenizer.model", "progress.json", ".partial-progress.json"):
        (partial / name).symlink_to(outside)
    (partial / "folder").mkdir()
    (partial / "more").symlink_to(tmp_path)
    prepare(Sources([text_folder]), tmp_path / "data", 320, 0.1)
    assert outside.read_text() == "export PATH\n"
    assert not (tmp_path / "data" / "folder").exists()


def test_prepare_goes_on_with_shards_alone(text_folder: Path, tmp_path: Path, outside: Path, monkeypatch: Any) -> None:
    """A forged state names a file elsewhere, which going on would cut short; or a link stands in a shard's place."""
    monkeypatch.setattr("lost.prepare.text._SAVE_SECONDS", 0.0)
    monkeypatch.setattr("lost.prepare.output.publish", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(InterruptedAtOnceError):
        prepare(Sources([text_folder]), tmp_path / "data", 320, 0.1)
    monkeypatch.undo()
    partial = partial_folder(tmp_path / "data")
    state = read_sealed_json(partial / "progress.json")
    (partial / "train-00000.bin").rename(tmp_path / "kept")
    (partial / "train-00000.bin").symlink_to(outside)
    with pytest.raises(StorageError, match="links are not followed here"):
        prepare(Sources([text_folder]), tmp_path / "data", 320, 0.1)
    assert outside.read_text() == "export PATH\n"
    state["splits"]["train"]["files"][0]["name"] = "../outside.txt"
    (partial / "progress.json").write_bytes(sealed_json(state))
    with pytest.raises(DataError, match="no shards"):
        prepare(Sources([text_folder]), tmp_path / "data", 320, 0.1)
    assert outside.read_text() == "export PATH\n"


def test_removing_takes_a_link_and_not_what_it_leads_to(tmp_path: Path, outside: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    for target in (outside, kept, tmp_path / "nothing"):
        (tmp_path / "link").symlink_to(target)
        remove(tmp_path / "link")
        assert not os.path.lexists(tmp_path / "link")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(kept)
    remove(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    assert outside.exists()
    assert (kept / "file").exists()


def test_a_new_file_takes_the_place_of_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    with open_new(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").read_text() == "new"
    assert outside.read_text() == "export PATH\n"
    (tmp_path / "hard").hardlink_to(outside)
    with pytest.raises(OSError, match="another name"):
        open_update(tmp_path / "hard")


def test_a_lock_that_is_a_link_is_no_lock(tmp_path: Path, outside: Path) -> None:
    (tmp_path / ".lock").symlink_to(outside)
    with pytest.raises(StorageError, match="links are not followed here"), locked(tmp_path, print):
        pass
    assert outside.read_text() == "export PATH\n"


def test_other_tools_folders_may_link_inside_and_to_the_hub_s_blobs(prepared: Dataset, tmp_path: Path) -> None:
    """As the hub's cache does; but what a link outside leads to would be copied into checkpoints, and published."""
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    shutil.copy(prepared.path / "tokenizer.model", cache / "blobs" / "abc")
    (snapshot / "tokenizer.model").symlink_to("../../blobs/abc")
    assert load_tokenizer(snapshot).fingerprint == prepared.tokenizer.fingerprint
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (snapshot / "config.json").symlink_to(secret)
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_folder(snapshot)
    (snapshot / "tokenizer.model").unlink()
    (snapshot / "tokenizer.model").symlink_to(prepared.path / "tokenizer.model")
    with pytest.raises(DataError, match="link out of its folder"):
        load_tokenizer(snapshot)


def test_shards_are_read_again_after_others_took_their_place_among_the_open(
    prepared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lost.data.shards._OPEN", 1)
    train, valid = prepared.split("train"), prepared.split("valid")
    first = train.read(0, 50)
    assert len(valid.read(0, 20)) == 20
    np.testing.assert_array_equal(train.read(0, 50), first)
