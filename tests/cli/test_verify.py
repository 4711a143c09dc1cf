"""`lost verify RUN`: the files of a run against each other. What is inside a checkpoint: test_convert.py."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.data.dataset import Dataset
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.lock import locked
from lost.training.verify import verify

Lost = Callable[..., object]
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, folder: Path, tmp_path: Path) -> Path:
    """A copy of a run with checkpoints at 2, 4 and 6, beside copies of its data and of a further held-out text."""
    if not (folder / "run").exists():
        for name in ("data", "further"):
            shutil.copytree(prepared.path, folder / name)
        settings = ("schedule.steps=6", "train.save_every=2", "train.keep_last=9", "train.eval_every=3",
                    f"data.also_evaluate.other={folder / 'further'}")  # fmt: skip
        done = lost("train", tiny_yaml, "--data", folder / "data", "--out", folder / "run",
                    *(word for each in settings for word in ("--set", each)))  # fmt: skip
        assert done.code == 0, done.err
    for name in ("run", "data", "further"):
        shutil.copytree(folder / name, tmp_path / name)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path)))
    return tmp_path / "run"


def replace(name: str, old: str, new: str) -> Change:
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new))

    return change


def row(number: int, **values: object) -> Change:
    """Change values of the row of a step that reports a loss."""

    def change(run: Path) -> None:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        next(each for each in rows if each["step"] == number and "loss" in each).update(values)
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))

    return change


def append(name: str, text: str) -> Change:
    return lambda run: (run / name).write_text((run / name).read_text() + text)


def remove(name: str) -> Change:
    return lambda run: (run / name).unlink()


def flip(name: str) -> Change:
    def change(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)

    return change


def rename(old: str, new: str) -> Change:
    return lambda run: (run / old).rename(run / new)


def test_a_run_as_it_was_written(lost: Lost, run: Path) -> None:
    answer = lost("verify", run, "--json")
    assert answer.code == 0, answer.out
    value = json.loads(answer.out)
    assert value == {
        "checked": [str(run / "checkpoints" / f"step-{step:08d}") for step in (2, 4, 6)],
        "faults": [],
        "weights_only": [],
        "remarks": [],
    }
    assert f"{run}: its files are consistent" in lost("verify", run).out


FAULTS: dict[str, tuple[Change, str]] = {
    "no configuration": (remove("config.yaml"), "config.yaml is missing"),
    "no sections": (lambda run: (run / "config.yaml").write_text("[]"), "config.yaml holds []"),
    "another configuration": (replace("config.yaml", "lr: 0.01", "lr: 0.5"), "optimizer.lr = 0.5, was 0.01"),
    "latest astray": (replace("latest", "0006", "0008"), "names 'checkpoints/step-00000008', which is no checkpoint"),
    "latest behind": (replace("latest", "0006", "0002"), "and step-00000006 is newer"),
    "no metrics": (remove("metrics.jsonl"), "metrics.jsonl can't be read"),
    "no row": (append("metrics.jsonl", "{}\n"), "is not a JSON object with a step"),
    "no JSON": (replace("metrics.jsonl", '{"step": 3, "loss"', '{"step": 3, "lo'), "is not a JSON object"),
    "a step twice": (row(4, step=3, tokens=192, samples=[8, 11]), "reports step 3 after step 3"),
    "another count of tokens": (row(4, tokens=255), "tokens = 255 at step 4; expected 256"),
    "other samples": (row(4, samples=[12, 16]), "samples = [12, 16] at step 4; expected [12, 15]"),
    "a checkpoint of another step": (
        rename("checkpoints/step-00000004", "checkpoints/step-00000003"), "is the checkpoint of step 4, under another"
    ),
    "a damaged shard": (flip("../data/train-00000.bin"), "train-00000.bin doesn't have the checksum"),
    "a damaged shard of a further text": (
        flip("../further/valid-00000.bin"), "valid-00000.bin doesn't have the checksum"
    ),
    "no such data any more": (remove("../data/dataset.json"), "holds no prepared data"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(lost: Lost, run: Path, name: str) -> None:
    """One change, one fault, by name."""
    change, words = FAULTS[name]
    change(run)
    answer = lost("verify", run, "--json")
    value = json.loads(answer.out)
    assert answer.code == 2
    assert [words in fault for fault in value["faults"]] == [True], value
    human = lost("verify", run)
    assert human.code == 2
    assert words in human.out
    assert "are consistent" not in human.out


REMARKS: dict[str, tuple[Change, str]] = {
    "latest one behind": (replace("latest", "0006", "0004"), "training on corrects it"),
    "no latest": (remove("latest"), "latest is missing: training on restores it"),
    "data elsewhere": (rename("../data", "../moved"), "is not on this machine"),
    "a further text elsewhere": (rename("../further", "../moved"), "a further held-out text of the run, is not on"),
    "an unfinished checkpoint": (
        lambda run: (run / "checkpoints" / ".partial-step-00000008").mkdir(), "step-00000008 was never finished"
    ),
    "an unfinished file": (lambda run: (run / ".partial-latest").touch(), ".partial-latest was never finished"),
}  # fmt: skip


@pytest.mark.parametrize("name", REMARKS)
def test_remarks(lost: Lost, run: Path, name: str) -> None:
    """What a crash leaves, or a machine lacks, is said, and is no fault."""
    change, words = REMARKS[name]
    change(run)
    answer = lost("verify", run, "--json")
    value = json.loads(answer.out)
    assert (answer.code, value["faults"]) == (0, [])
    assert [words in remark for remark in value["remarks"]] == [True], value
    assert words in lost("verify", run).out


def test_what_may_be_is_neither(lost: Lost, run: Path) -> None:
    """A last line that a crash cut off, a key that may change, a checkpoint that was pruned since."""
    append("metrics.jsonl", '{"step": 7, "lo')(run)
    replace("config.yaml", "log_every: 1", "log_every: 5")(run)
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    value = json.loads(lost("verify", run, "--json").out)
    assert value["faults"] == value["remarks"] == []


def test_many_wrong_lines_are_one_fault(run: Path) -> None:
    (run / "metrics.jsonl").write_text("?\n" * 1000)
    assert verify(run).problems == [
        f"{run / 'metrics.jsonl'}:1: is not a JSON object with a step (and 999 more lines like it)"
    ]


def test_data_of_another_run(run: Path, text_folder: Path) -> None:
    data = run.parent / "data"
    shutil.rmtree(data)
    prepare(Sources([text_folder]), data, 300, 0.1)
    assert verify(run).problems == [
        f"{data} is not the data that {run / 'checkpoints' / f'step-{step:08d}'} was trained on" for step in (2, 4, 6)
    ]


def test_a_checkpoint_of_another_run(lost: Lost, run: Path) -> None:
    for step in (2, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    other = run / "checkpoints" / "step-00000002"
    assert lost("convert", run, run / "elsewhere", "--dtype", "bfloat16").code == 0
    (run / "elsewhere").rename(other)
    found = [fault for fault in verify(run).problems if str(other) in fault]
    assert "train.param_dtype = 'bfloat16', was 'float32'" in found[0]
    assert "is the checkpoint of step 4" in found[1]


def test_a_damaged_newest_checkpoint_is_named_once(run: Path) -> None:
    """`latest` still names it: that is no second fault. What the one before says counts for the rest."""
    flip("checkpoints/step-00000006/manifest.json")(run)
    found = verify(run)
    assert len(found.problems) == 1
    assert "manifest.json is damaged" in found.problems[0]
    replace("config.yaml", "lr: 0.01", "lr: 0.5")(run)
    assert "is not the configuration of" in verify(run).problems[1]
    assert "step-00000004" in verify(run).problems[1]


def test_before_the_first_checkpoint(lost: Lost, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    for name in ("latest", "metrics.jsonl"):
        (run / name).unlink()
    answer = lost("verify", run)
    assert answer.code == 0
    assert "has no checkpoint yet: the next start begins at step 0" in answer.out
    (run / "latest").write_text("checkpoints/step-00000002\n")  # so there was one
    assert lost("verify", run).code == 2


def test_a_run_in_use(run: Path) -> None:
    (run / "checkpoints" / ".partial-step-00000008").mkdir()
    with locked(run, print) as text:
        remarks = verify(run).remarks
        assert (run / ".lock").read_text() == text
    assert len(remarks) == 1  # what is unfinished is being written
    assert f"is in use by process {os.getpid()} on " in remarks[0]
    assert "was never finished" in verify(run).remarks[0]


def test_verifying_changes_nothing(lost: Lost, run: Path) -> None:
    (run / "checkpoints" / ".partial-step-00000008").mkdir()
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")}
    assert lost("verify", run).code == 0
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")} == before
