"""What stands where something is to be written: another command's work, a user's folders, a link, a pipe, a run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.checkpoint import newest_valid
from lost.data.dataset import Dataset
from lost.storage.files import LOCK, sealed_json
from lost.sweep.plan import read_sweep
from lost.sweep.results import Results

Lost = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "run"


@pytest.fixture
def train(lost: Lost, tiny_yaml: Path, prepared: Dataset) -> Lost:
    def call(out: Path, *more: object, file: Path = tiny_yaml) -> Any:
        options = ("--backend", "torch", "--device", "cpu", "--set", "schedule.steps=4", "--set", "train.save_every=2")
        return lost("train", file, "--data", prepared.path, "--out", out, *options, *more)

    return call


@pytest.fixture
def run(train: Lost, made: Path, tmp_path: Path) -> Path:
    """A finished run of four steps, with checkpoints of two of them."""
    if not made.exists():
        assert train(made, "--set", "schedule.warmup_steps=1").code == 0
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    checkpoint, _ = newest_valid(run / "checkpoints")
    assert checkpoint
    return checkpoint.path


def test_what_lost_prepare_would_go_on_with_stays(train: Lost, lost: Lost, run: Path, tmp_path: Path) -> None:
    """In the folder of a run, and under the name that something else is to have."""
    begun = tmp_path / "exp" / ".partial-data"
    begun.mkdir(parents=True)
    (begun / LOCK).touch()
    (begun / "train-00000.bin").write_bytes(b"encoded")
    assert train(tmp_path / "exp").code == 0
    assert (begun / "train-00000.bin").read_bytes() == b"encoded"
    answer = lost("convert", run, tmp_path / "exp" / "data")
    assert answer.code == 2
    assert "would go on with" in answer.err
    assert (begun / "train-00000.bin").read_bytes() == b"encoded"


@pytest.mark.parametrize(("state", "words"), [({}, "other arguments"), ({"arguments": 5}, "other arguments")])
def test_a_beginning_that_is_no_prepared_sets(
    lost: Lost, text_folder: Path, tmp_path: Path, state: dict, words: str
) -> None:
    begun = tmp_path / ".partial-new"
    begun.mkdir()
    (begun / "progress.json").write_bytes(sealed_json(state))
    answer = lost("prepare", text_folder, "--vocab-size", 300, "--out", tmp_path / "new")
    assert answer.code == 2
    assert words in answer.err
    assert (begun / "progress.json").exists()
    assert lost("prepare", text_folder, "--vocab-size", 300, "--out", tmp_path / "new", "--overwrite").code == 0


@pytest.mark.parametrize("to", ["lost", "hf", "set"])
def test_folders_in_what_is_replaced_stay(
    lost: Lost, run: Path, text_folder: Path, prepared: Dataset, tmp_path: Path, to: str
) -> None:
    """The source for one."""
    out = tmp_path / "out"
    if to == "set":
        shutil.copytree(prepared.path, out)
        command: tuple[object, ...] = ("prepare", text_folder, "--vocab-size", 300, "--out", out, "--overwrite")
    elif to == "hf":
        assert lost("convert", run, out, "--to", "hf").code == 0
        command = ("convert", out / "mine", out, "--to", "hf", "--overwrite")
    else:
        shutil.copytree(newest(run), out)
        command = ("convert", out / "mine", out, "--overwrite", "--weights-only")
    shutil.copytree(run, out / "mine")
    answer = lost(*command)
    assert answer.code == 2, answer.out
    assert "holds the folder mine, which would go with it" in answer.err
    assert newest(out / "mine").exists()


def test_nothing_is_written_among_a_runs_checkpoints(lost: Lost, run: Path, train: Lost) -> None:
    among = run / "checkpoints"
    for command in (
        ("convert", run, among / "step-00000099", "--weights-only"),
        ("merge", f"{run}@2", run, newest(run), "--overwrite"),
        ("convert", run, newest(run) / "inside"),
        ("convert", run, newest(run) / "inside", "--to", "hf"),
    ):
        answer = lost(*command)
        assert answer.code == 2
        assert "is named as a checkpoint of the run" in answer.err or "lies in the checkpoint" in answer.err
    assert len([*among.iterdir()]) == 2
    assert not (newest(run) / "inside").exists()


def test_a_path_through_a_folder_that_is_not_there(lost: Lost, run: Path, tmp_path: Path) -> None:
    answer = lost("convert", run, f"{tmp_path}/none/../out", "--weights-only")
    assert answer.code == 0, answer.err
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_report_replaces_reports_alone(lost: Lost, run: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(run / "config.yaml")
    foreign = "a file is there that `lost report` hasn't made"
    for out, words in ((run / "metrics.jsonl", foreign), (tmp_path / "pipe", "no file"), (tmp_path / "link", foreign)):
        answer = lost("report", run, "-o", out)
        assert answer.code == 2
        assert words in answer.err
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert "pipe: it is no file" in lost("plot", run, "-o", tmp_path / "pipe").err
    for _ in range(2):
        assert lost("report", run, "--no-layers", "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.yaml", "holds a config.yaml that no run wrote"),
        ("dataset.json", "is a prepared set"),
        ("manifest.json", "is a checkpoint"),
        ("config.json", "is an exported model"),
        ("results.jsonl", "is a sweep's folder"),
    ],
)
def test_a_run_takes_no_folder_of_something_else(
    train: Lost, lost: Lost, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("mine")
    answer = train(tmp_path / "other")
    assert answer.code == 2
    assert words in answer.err
    assert lost("fetch", f"file://{tmp_path}/none", "--out", tmp_path / "other").code == 2
    assert [each.name for each in (tmp_path / "other").iterdir()] == [name]
    assert (tmp_path / "other" / name).read_text() == "mine"


def test_a_run_lies_in_no_checkpoint(train: Lost, run: Path, tmp_path: Path) -> None:
    """But in a folder with a manifest of something else, such as a web page's, as well as anywhere."""
    answer = train(newest(run) / "inside" / "run")
    assert answer.code == 2
    assert "lies in the checkpoint" in answer.err
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert train(tmp_path / "runs" / "one", "--set", "train.stop_after=1").code == 0


def test_a_run_s_own_configuration_is_no_new_run(lost: Lost, run: Path) -> None:
    answer = lost("train", run / "config.yaml")
    assert answer.code == 2
    assert f"`lost train {run}`" in answer.err


def test_a_fetch_in_vain_leaves_nothing(lost: Lost, tmp_path: Path) -> None:
    assert "could not be written" in lost("fetch", f"file://{tmp_path}/none", "--out", "/proc/lost").err
    assert lost("fetch", f"file://{tmp_path}/none", "--out", tmp_path / "run").code != 0
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_named_may_be_a_link(train: Lost, lost: Lost, run: Path, tmp_path: Path) -> None:
    for name, target in (("new", tmp_path / "real"), ("old", run)):
        target.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    assert train(tmp_path / "new").code == 0
    assert newest(tmp_path / "real").exists()
    resumed = train(tmp_path / "old", "--set", "schedule.warmup_steps=1")
    assert resumed.code == 0, resumed.err
    (tmp_path / "pages").mkdir()
    (tmp_path / "to_pages").symlink_to(tmp_path / "pages")
    assert lost("report", run, "--no-layers", "-o", tmp_path / "to_pages" / "x.html").code == 0


def test_links_and_pipes_in_a_sweeps_folder(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    sweep = tmp_path / "s.yaml"
    sweep.write_text(f"config: {tiny_yaml}\ngrid: {{optimizer.lr: [0.001]}}\n")
    (tmp_path / "kept").write_text("kept")
    for kind in ("link", "pipe"):
        out = Results(read_sweep(sweep), tmp_path / kind).folder
        log = out / "0.001-seed0.log"
        log.symlink_to(tmp_path / "kept") if kind == "link" else os.mkfifo(log)
        answer = lost("sweep", sweep, "--data", prepared.path, "--out", out, "--backend", "torch", "--device", "cpu")
        assert answer.code != 0
        assert "0.001-seed0.log could not be written: it is" in answer.err
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_mirror_of_other_settings_is_left_alone(train: Lost, tmp_path: Path) -> None:
    """Of the same model, seed and data, but other rates: one run's copies aren't another's."""
    mirror = ("--mirror", f"file://{tmp_path}/far")
    warm = ("--set", "schedule.warmup_steps=1")
    assert train(tmp_path / "one", *warm, *mirror).code == 0
    before = sorted(path.name for path in (tmp_path / "far" / "checkpoints").iterdir())
    for more in (("optimizer.lr=0.5",), ("schedule.steps=8",), ("train.batch_size=2",)):
        other = train(tmp_path / more[0], *warm, "--set", *more, *mirror)
        assert other.code == 0, other.err
        assert "is a checkpoint of another run" in " ".join(other.out.split())
    assert sorted(path.name for path in (tmp_path / "far" / "checkpoints").iterdir()) == before
    assert "of another run" not in train(tmp_path / "one", *warm, *mirror).out
