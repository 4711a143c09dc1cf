"""`lost train --dry-run`: it finds what a start would find, and leaves no trace."""

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import array_bytes
from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.load import load_config, shipped
from lost.model.parameters import parameter_table
from lost.planning.budget import budget
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.lock import locked
from lost.training.begin.dry_run import miniature

Lost = Callable[..., object]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Path:
    """A run that was stopped at step 10 of 20."""
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "train.stop_after=10")
    assert done.code == 0, done.err
    return tmp_path / "run"


def everything(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.rglob("*"))}


def test_a_new_run(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "a" / "run")
    command += ("--backend", "torch", "--device", "cpu")
    before = everything(tmp_path)
    answer = lost(*command, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    config = load_config(tiny_yaml).replace("model", vocab_size=prepared.tokenizer.vocab_size)
    split = prepared.split("train")
    assert value.pop("disk_bytes").items() >= {"needed": 2 * array_bytes(config), "checkpoints": 2}.items()
    assert value.pop("memory_bytes")["needed"] == budget(config).memory.total
    assert value.pop("data") == {
        "path": str(prepared.path), "tokens": split.tokens, "epochs": 20 * 4 / split.windows(16)
    }  # fmt: skip
    assert value == {
        "run": str(tmp_path / "a" / "run"),
        "backend": "torch",
        "devices": ["cpu"],
        "workers": 1,
        "parameters": sum(row.size for row in parameter_table(config).values() if row.trained),
        "micro_batch_size": 2,
        "resumes": False,
        "step": 0,
        "removes": [],
        "steps_to_go": 20,
        "tokens_to_go": 20 * 4 * 16,
    }
    human = lost(*command, "--dry-run")
    assert human.code == 0
    for words in (
        "torch",
        "1 (cpu)",
        str(prepared.path),
        "starts from step 0",
        "2 more checkpoints",
        "20 steps, 1.28k",
    ):
        assert words in human.out
    assert everything(tmp_path) == before


def test_a_run_to_go_on_with(lost: Lost, run: Path) -> None:
    """What it says, the start then does."""
    command = ("train", run, "--set", "train.stop_after=16", "--json")
    before = everything(run.parent)
    answer = lost(*command, "--dry-run")
    value = json.loads(answer.out)
    assert (value["resumes"], value["step"], value["steps_to_go"]) == (True, 10, 6)
    assert "changed since the checkpoint: train.stop_after = 16, was 10" in answer.err
    assert everything(run.parent) == before
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    assert json.loads(lost(*command).out)["step"] == 16
    losses = [line for line in (run / "metrics.jsonl").read_text().splitlines()[rows:] if '"loss"' in line]
    assert len(losses) == 6
    assert json.loads(lost(*command, "--dry-run").out)["steps_to_go"] == 0


def test_to_begin_again(lost: Lost, run: Path) -> None:
    before = everything(run)
    value = json.loads(lost("train", run, "--fresh", "--overwrite", "--dry-run", "--json").out)
    assert (value["resumes"], value["step"], value["steps_to_go"]) == (False, 0, 10)
    assert value["removes"] == [str(run / "checkpoints" / "step-00000010")]
    assert everything(run) == before


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "optimizer.lr=1e-3"), "optimizer.lr = 0.001, was 0.01"),
        (("--fresh",), "holds 1 checkpoint up to step-00000010"),
        (("--data", "other"), "is not the data that"),
        (("--set", "train.micro_batch_size=3"), "doesn't divide"),
        (("--backend", "abacus"), "no such backend"),
        (("--backend", "torch", "--device", "tpu"), "PyTorch devices are"),
        (("--out", "tiny.yaml/run"), "could not be written: Not a directory"),
        (
            ("--backend", "mlx", "--out", "new", "--set", "optimizer.name=adamw8bit"),
            "the mlx backend doesn't implement it; expected one that does (torch)",
        ),
    ],
)
def test_refused_as_the_start_is(
    lost: Lost, run: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(run.parent)
    if "other" in arguments:
        prepare(Sources([text_folder]), run.parent / "other", 300, 0.1)
    before = everything(run.parent)
    answer = lost("train", run, *arguments, "--dry-run")
    assert answer.code == 2
    assert words in answer.err
    assert everything(run.parent) == before
    assert words in lost("train", run, *arguments).err


def test_refused_for_damage(lost: Lost, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Of the data every byte is looked at, of which a start sees few."""
    shutil.copytree(prepared.path, tmp_path / "data")
    damage(tmp_path / "data" / "train-00000.bin")
    answer = lost("train", run, "--data", tmp_path / "data", "--dry-run")
    assert answer.code == 2
    assert (
        "train-00000.bin doesn't have the checksum it was written with; expected the files as `lost prepare`"
        in answer.err
    )
    damage(run / "checkpoints" / "step-00000010" / "model-00001.safetensors")
    answer = lost("train", run, "--dry-run")
    assert answer.code == 2
    assert "none is intact" in answer.err


def test_refused_for_memory(lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: 1 << 10)
    answer = lost("train", run, "--dry-run", "--backend", "torch")
    assert answer.code == 2
    assert "training needs about" in answer.err


def test_refused_for_another_job(lost: Lost, run: Path) -> None:
    """Nothing is written into the lock, and nothing is left locked."""
    with locked(run, print) as text:
        answer = lost("train", run, "--dry-run")
        assert answer.code == 75
        assert f"{run} is in use by process {os.getpid()} on " in answer.err
        assert (run / ".lock").read_text() == text
    assert lost("train", run, "--dry-run").code == 0
    with locked(run, print, timeout=0):
        pass


def test_a_dry_run_refuses_a_full_disk_of_which_a_start_warns(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run")
    monkeypatch.setattr("lost.planning.disk.shutil.disk_usage", lambda path: Usage(1 << 40, 0, 400 << 10))
    answer = lost(*command, "--dry-run")
    assert answer.code == 2
    assert "has 0.4 MiB free, and the run's checkpoints will take 0.7 MiB more (2 of 0.4 MiB: " in answer.err
    assert not (tmp_path / "run").exists()
    started = lost(*command)
    assert started.code == 0
    assert "has 0.4 MiB free, and the run's checkpoints will take 0.7 MiB more" in started.out
    monkeypatch.setattr("lost.planning.disk.shutil.disk_usage", lambda path: Usage(1 << 40, 0, 1 << 30))
    assert "MiB free" not in lost(*command, "--fresh", "--overwrite").out


def test_the_device_is_tried_without_the_model(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lost.backends import torch as backend

    create, made = backend.create, []

    def note(config: Config, *rest: object) -> object:
        made.append(sum(row.size for row in parameter_table(config).values()))
        return create(config, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "create", note)
    assert lost("train", tiny_yaml, "--data", prepared.path, "--dry-run", "--backend", "torch").code == 0
    assert len(made) == 1
    assert made[0] < 1000


def test_the_trial_engine_is_small_whatever_the_run() -> None:
    for name in shipped():
        config = load_config(name, ["optimizer.name=adamw8bit"])
        small = miniature(config)
        assert sum(row.size for row in parameter_table(small).values()) < 1000
        assert (small.train, small.optimizer) == (config.train, config.optimizer)
