"""Unreadable checkpoints and unwritable disks: named in the message, and nothing else is lost."""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lost.checkpoint import find_checkpoint
from lost.data.dataset import Dataset
from lost.storage.files import storage
from lost.tracking.metrics import MetricsFile

Lost = Callable[..., Any]
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """Let no file of this name in the newest checkpoint be opened: as with a failing disk, or another's file."""
    opened = os.open

    def fail(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(f"step-00000020/{name}"):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG])
@pytest.mark.parametrize("name", ["manifest.json", "model-00001.safetensors", "tokenizer.model"])
def test_a_file_that_can_not_be_opened(
    lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    refuse(monkeypatch, name, code)
    found, rejected = find_checkpoint(run)
    assert found.path.name == "step-00000010"
    assert f"step-00000020/{name}" in rejected[0]
    assert os.strerror(code) in rejected[0]
    verified = lost("verify", run)
    assert verified.code == 2
    assert os.strerror(code) in verified.out


def test_a_disk_that_fails_while_it_is_read(lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lost.storage import files

    class Failing(io.BufferedReader):
        def readinto(self, buffer: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    opened = files.open_read

    def fail(path: Path, follow: bool = False) -> io.BufferedReader:
        found = opened(path, follow)
        return Failing(found.detach()) if str(path).endswith("20/optimizer-00001.safetensors") else found

    monkeypatch.setattr(files, "open_read", fail)
    again = lost("train", run, "--set", "train.stop_after=11")
    assert again.code == 0, again.err
    assert "optimizer-00001.safetensors can't be read: Input/output error" in again.out
    assert "from step 10" in again.out


def rows(value: Any) -> Callable[[Path], None]:
    """Put other row numbers into the weights' file."""

    def write(path: Path) -> None:
        file = path / "model-00001.safetensors"
        arrays = safetensors.numpy.load_file(file)
        safetensors.numpy.save_file(arrays, file, {"format": "pt", "first_rows": json.dumps(value)})

    return write


def scalar(path: Path) -> None:
    file = path / "model-00001.safetensors"
    arrays = safetensors.numpy.load_file(file)
    arrays["model.norm.weight"] = np.array(1.0, np.float32)
    safetensors.numpy.save_file(arrays, file)


@pytest.mark.parametrize(
    "spoil",
    [rows(None), rows([1]), rows({"model.norm.weight": None}), rows({"model.norm.weight": -3}), scalar],
    ids=["null", "list", "null row", "negative row", "scalar"],
)
def test_weights_that_make_no_arrays(lost: Lost, run: Path, reseal: Callable[..., None], spoil: Any) -> None:
    newest = run / "checkpoints" / "step-00000020"
    spoil(newest)
    reseal(newest)
    for command in (("verify", run), ("inspect", newest), ("eval", newest)):
        answer = lost(*command)
        assert answer.code == 2, answer.err
        assert "model-00001.safetensors" in answer.err + answer.out
    again = lost("train", run, "--set", "train.stop_after=11")
    assert again.code == 0, again.err
    assert "from step 10" in again.out


@pytest.mark.parametrize(
    "text", ['{"format": 1, "files": ' + DEEP + "}", "[" * 200_000, "1" * 10_000, "\0" * (65 << 20)],
    ids=["deep", "deeper", "long number", "long"],
)  # fmt: skip
def test_a_manifest_no_one_wrote(lost: Lost, run: Path, text: str) -> None:
    newest = run / "checkpoints" / "step-00000020"
    (newest / "manifest.json").write_text(text)
    assert lost("eval", newest).code == 2
    answer = lost("train", run, "--set", "train.stop_after=11")
    assert answer.code == 0, answer.err
    assert "from step 10" in answer.out
    assert "manifest.json" in answer.out


@pytest.mark.parametrize("size", [float("inf"), float("nan"), -1, 1.5, "12", None, 10**400])
def test_a_size_that_is_none(run: Path, reseal: Callable[..., None], size: Any) -> None:
    newest = run / "checkpoints" / "step-00000020"
    reseal(newest, lambda manifest: manifest["files"]["config.json"].update(size=size))
    found, rejected = find_checkpoint(run)
    assert found.path.name == "step-00000010"
    assert "step-00000020" in rejected[0]


@pytest.mark.parametrize("code", [errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO, errno.EMFILE, errno.ENOSPC])
def test_an_error_that_may_pass_ends_no_run_that_is_to_go_on(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Of a share that is gone for a while, say: the log and the checkpoints are tried again later."""
    from lost.tracking import metrics

    opened, calls = metrics.open_update, []

    def fail(path: Path) -> Any:
        calls.append(path)
        if len(calls) in (3, 4):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path)

    monkeypatch.setattr(metrics, "open_update", fail)
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--set", "train.stop_after=8")
    answer = lost(*arguments, "--out", tmp_path / "a", "--set", "train.on_save_error=continue")
    assert answer.code == 0, answer.err
    assert os.strerror(code) in answer.out
    assert "Training goes on" in answer.out
    calls.clear()
    stopped = lost(*arguments, "--out", tmp_path / "b")
    assert stopped.code == 2
    assert "metrics.jsonl could not be written" in stopped.err
    assert "defect" not in stopped.err


def test_a_defect_of_ours_is_none_of_the_disk_s(tmp_path: Path) -> None:
    for code in (errno.EBADF, errno.EFAULT):
        with pytest.raises(OSError, match="x"), storage(tmp_path / "file"):
            raise OSError(code, "x")


def test_rows_and_manifests_are_json(lost: Lost, tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.row({"step": 1, "loss": float("nan"), "norms": [float("inf"), 1.0]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {
        "step": 1, "loss": None, "norms": [None, 1.0]
    }  # fmt: skip


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.yaml", "latest"])
def test_a_dry_run_sees_what_a_start_would(lost: Lost, run: Path, whole: Path, prepared: Dataset, name: str) -> None:
    """A folder in the place of a file of the run."""
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    command = ("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run)
    words = []
    for more in (("--dry-run",), ()):
        answer = lost(*command, *more)
        assert answer.code == 2, answer.err
        words.append(answer.err)
    assert all(str(run / name) in each for each in words), words
