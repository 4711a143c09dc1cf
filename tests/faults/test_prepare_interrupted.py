"""`lost prepare` interrupted in its process, by the user or by files that can't be reached: nothing is lost."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from folders import contents

from lost.data.dataset import Dataset
from lost.data.writer import SplitWriter
from lost.errors import InterruptedAtOnceError, UnreachableError
from lost.prepare.output import ProgressCallback, unseen
from lost.prepare.reading.parts import Part
from lost.prepare.reading.readers import read
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.files import read_sealed_json


def test_network_gone(prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a streamed set can't be fetched while the text is encoded; later it can."""
    for name, value in (
        ("holdout._REMOTE_BYTES", 1000),
        ("text._BATCH_CHARACTERS", 1000),
        ("text._SAVE_SECONDS", 0),
    ):
        monkeypatch.setattr(f"lost.prepare.{name}", value)
    folder, away = tmp_path / "set", tmp_path / "away.parquet"
    folder.mkdir()
    for number in range(2):
        texts = [f"document {number} {count} of the rank" for count in range(200)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"train-{number}.parquet")
    (tmp_path / "valid.txt").write_text("held out")

    def make(out: Path, progress: ProgressCallback = unseen) -> None:
        valid = Sources([tmp_path / "valid.txt"])
        prepare(Sources([f"hf://{folder}"]), out, prepared.tokenizer, valid, progress)

    def lose(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        if phase == "reading" and not away.exists():
            (folder / "train-1.parquet").rename(away)

    make(tmp_path / "straight")
    with pytest.raises(UnreachableError, match="the same command again"):
        make(tmp_path / "out", lose)
    assert read_sealed_json(tmp_path / ".partial-out" / "progress.json")["splits"]["train"]["documents"] > 99
    away.rename(folder / "train-1.parquet")
    make(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_share_gone(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file can't be read for a while: what was encoded stays. Nor is a folder that can't be listed left out."""
    for name, value in (("_BATCH_CHARACTERS", 1000), ("_SAVE_SECONDS", 0)):
        monkeypatch.setattr(f"lost.prepare.text.{name}", value)
    files, reads = sorted(text_folder.iterdir()), []

    def stale(path: Path, key: str, part: Part) -> Iterator[str]:
        reads.append(path)
        if reads.count(files[40]) == 3:  # surveyed, for the tokenizer, encoded
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path, key, part)

    prepare(Sources([text_folder]), tmp_path / "straight", 320, 0.1)
    with monkeypatch.context() as patch:
        patch.setattr("lost.prepare.sources.read", stale)
        with pytest.raises(UnreachableError, match=r"040\.txt can't be read: Stale file handle"):
            prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1)
    told: list[str] = []
    prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1, log=told.append)
    assert "were encoded already" in told[0]
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")

    def closed(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", closed)
        with pytest.raises(UnreachableError, match="can't be read: Permission denied"):
            list(Sources([text_folder]).documents())


def test_a_file_that_goes_while_a_folder_is_read(text_folder: Path, tmp_path: Path) -> None:
    """It isn't left out in silence: it may be back, and what was to be read had it. Only links may lead nowhere."""
    folder = tmp_path / "text"
    copytree(text_folder, folder)
    (folder / "000 link.txt").symlink_to("nowhere")
    sources = Sources([folder])
    documents = sources.documents()
    next(documents)
    gone = sorted(folder.iterdir())[-1]
    gone.rename(tmp_path / "away")
    with pytest.raises(UnreachableError, match=f"{gone.name} can't be read: No such file"):
        list(documents)
    assert sources.skipped == [folder / "000 link.txt"]


@pytest.mark.parametrize("batch", [0, 3, 9])
def test_interrupted_by_the_user_loses_nothing(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Ctrl-C halfway through a batch that is written: what was encoded before stays, and the message is true."""
    monkeypatch.setattr("lost.data.writer._SHARD_TOKENS", 3000)
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 1000)
    prepare(Sources([texts]), tmp_path / "straight", 320, 0.1)
    append = SplitWriter.append
    documents: list[int] = []

    def interrupted(writer: SplitWriter, ids: np.ndarray, number: int = 0, size: int = 0) -> None:
        append(writer, ids, number, size)
        documents.append(number)
        if len(documents) == 2 + 2 * batch + 1:  # both splits begin with a token, and go on batch by batch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "append", interrupted)
        with pytest.raises(InterruptedAtOnceError, match="again to resume"):
            prepare(Sources([texts]), tmp_path / "out", 320, 0.1)
    told: list[str] = []
    prepare(Sources([texts]), tmp_path / "out", 320, 0.1, log=told.append)
    assert f": {sum(documents[:-1])} documents were encoded already" in told[0]
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_interrupted_before_anything_is_encoded(text_folder: Path, tmp_path: Path) -> None:
    """There is nothing to resume, and the message doesn't say so."""

    def progress(phase: str, *counts: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedAtOnceError, match=r"again$"):
        prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1, progress)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("second", [False, True], ids=["before it", "after it"])
def test_interrupted_while_one_set_replaces_another(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    """Ctrl-C around the last of the renames: the new set is whole, or the same command makes it so."""
    rename, out = os.rename, tmp_path / "out"
    prepare(Sources([text_folder]), out, 320, 0.3)
    prepare(Sources([text_folder]), tmp_path / "straight", 320, 0.1)

    def interrupted(source: Path, target: Path) -> None:
        if second or target != out:
            rename(source, target)
        if target == out:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lost.storage.files.os.rename", interrupted)
        with pytest.raises(InterruptedAtOnceError):
            prepare(Sources([text_folder]), out, 320, 0.1, overwrite=True)
    if not second:
        told: list[str] = []
        prepare(Sources([text_folder]), out, 320, 0.1, overwrite=True, log=told.append)
        assert "were encoded already" in told[0]
    assert Dataset(out).fingerprint == Dataset(tmp_path / "straight").fingerprint
