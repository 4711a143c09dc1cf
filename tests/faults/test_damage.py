"""Files that are not what was written: refused by name, skipped on resume, never executed."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import run_python

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.storage.files import read_sealed_json, seal, sealed_json

Lost = Callable[..., Any]


def flipped(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    file.write_bytes(content)


def truncated(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def missing(file: Path, other: Path) -> None:
    file.unlink()


def foreign(file: Path, other: Path) -> None:
    """Another file of the same name and size: of an older checkpoint, or of another set."""
    content = other.read_bytes()
    file.write_bytes(content[: file.stat().st_size].ljust(file.stat().st_size, b"\0"))


DAMAGES = pytest.mark.parametrize("damage", [flipped, truncated, missing, foreign])


@DAMAGES
@pytest.mark.parametrize("name", ["model-00001.safetensors", "optimizer-00001.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    lost: Lost, whole: Path, prepared: Dataset, tmp_path: Path, damage: Callable[[Path, Path], None], name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    newest, older = run / "checkpoints" / "step-00000020", run / "checkpoints" / "step-00000010"
    damage(newest / name, older / name)
    verified = lost("verify", run)
    assert verified.code == 2
    assert "step-00000020" in verified.out
    refused = lost("eval", newest)
    assert refused.code == 2
    assert "step-00000020" in refused.err
    again = lost("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run, "--device", "cpu")
    assert again.code == 0, again.err
    assert "skipped: " in again.out
    assert "step-00000020" in again.out
    assert "from step 10" in again.out
    found, meant = (open_checkpoint(each / "checkpoints" / "step-00000020") for each in (run, whole / "run"))
    assert {n: a.tobytes() for n, a in found.parameters()} == {n: a.tobytes() for n, a in meant.parameters()}


@DAMAGES
def test_a_damaged_shard_is_named_before_anything_is_trained(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    shutil.copytree(prepared.path, tmp_path / "data")
    shard = tmp_path / "data" / "train-00000.bin"
    damage(shard, prepared.path / "valid-00000.bin")
    answer = lost("train", tiny_yaml, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert answer.code == 2
    assert str(shard) in answer.err
    assert "prepare" in answer.err
    assert not (tmp_path / "run").exists()


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_a_pickle_in_place_of_tensors_is_refused_unopened(lost: Lost, whole: Path, tmp_path: Path) -> None:
    """Sealed as a stranger would seal it, so that only what reads the tensors can refuse it."""
    run, trace = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(whole / "run", run)
    for name in ("step-00000010", "step-00000020"):
        folder = run / "checkpoints" / name
        content = pickle.dumps(Bomb(trace))
        (folder / "model-00001.safetensors").write_bytes(content)
        manifest = read_sealed_json(folder / "manifest.json")
        manifest["files"]["model-00001.safetensors"] = seal(content)
        (folder / "manifest.json").write_bytes(sealed_json(manifest))
    for command in (("eval", run), ("train", run), ("inspect", run), ("verify", run), ("convert", run, tmp_path / "c")):
        answer = lost(*command)
        assert answer.code == 2, command
        assert "can't be read as safetensors" in answer.err + answer.out
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # it would have


UNPICKLED = """
import sys
from lost.cli.main import main
import torch, lost.backends.torch, lost.engine.selftest
def listen(event, arguments):
    if event == "pickle.find_class":
        print("FOUND A CLASS", arguments, flush=True)
sys.addaudithook(listen)
import pickle; pickle.loads(b"cbuiltins\\nlen\\n.")
print("---", flush=True)
main()
"""


def test_nothing_is_unpickled_on_the_way(whole: Path, prepared: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    for command in (["eval", run, "--device", "cpu"], ["train", run, "--data", prepared.path]):
        done = run_python("-c", UNPICKLED, *command, check=True)
        before, _, after = done.stdout.partition("---")
        assert "FOUND A CLASS" in before  # the hook hears
        assert "FOUND A CLASS" not in after


@pytest.mark.parametrize(
    ("setting", "words"),
    [("optimizer.lr=1e-3", "optimizer.lr = 0.001, was 0.01"), ("projection.rank=4", "projection.rank = 4, was 8")],
)
def test_a_changed_configuration_is_refused_key_by_key(
    lost: Lost, whole: Path, prepared: Dataset, tmp_path: Path, setting: str, words: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    before = (run / "config.yaml").read_bytes()
    arguments = ("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run)
    refused = lost(*arguments, "--set", setting)
    assert refused.code == 2
    assert words in refused.err
    assert (run / "config.yaml").read_bytes() == before
    listed = lost(*arguments, "--set", "train.log_every=7", "--set", "train.keep_last=5")
    assert listed.code == 0, listed.err
    assert "changed since the checkpoint: train.log_every = 7, was 1; train.keep_last = 5, was 2" in listed.out
