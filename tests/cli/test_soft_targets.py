"""`lost teach`, and runs that learn from what it wrote, without the teacher."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lost.backends.torch.engine import TorchEngine
from lost.checkpoint import open_checkpoint
from lost.data.batch import SoftTargets
from lost.data.dataset import Dataset
from lost.data.soft_targets import writer
from lost.data.soft_targets.reader import DESCRIPTION, SoftTargetSet
from lost.errors import DataError, UserError
from lost.interop.source import open_source
from lost.storage.files import read_sealed_json, sealed_json
from lost.training.teaching import lesson

Call = Callable[..., Any]
SETTINGS = (
    "train.log_every=1",
    "train.save_every=3",
    "train.eval_every=0",
    "schedule.steps=6",
    "train.micro_batch_size=2",
)


@pytest.fixture
def teacher(lost: Call, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Path:
    """A dense model of a few steps."""
    sets = ("--set", "projection.kind=dense", "--set", "schedule.steps=4")
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "teacher", "--device", "cpu", *sets)
    assert done.code == 0, done.err
    return tmp_path / "teacher"


@pytest.fixture
def teach(lost: Call, teacher: Path, prepared: Dataset, tmp_path: Path) -> Call:
    """Have the teacher write soft targets into a folder of that name."""

    def call(name: str, *more: object, data: Path = prepared.path) -> Any:
        return lost("teach", teacher, "--data", data, "--out", tmp_path / name, "--device", "cpu", *more)

    return call


@pytest.fixture
def run(lost: Call, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Call:
    def call(name: str, *settings: str, more: tuple = (), data: Path = prepared.path) -> Any:
        sets = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        return lost("train", tiny_yaml, "--data", data, "--out", tmp_path / name, "--device", "cpu", *more, *sets)

    return call


def losses(run: Path) -> list[tuple[float, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["divergence"]) for row in found if "divergence" in row]


def weights(run: Path) -> dict[str, bytes]:
    found = open_checkpoint(sorted((run / "checkpoints").glob("step-*"))[-1])
    return {name: array.tobytes() for name, array in found.parameters()}


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_all_entries_teach_what_the_teacher_does(
    teach: Call, run: Call, teacher: Path, tmp_path: Path, backend: str
) -> None:
    """Whatever the run's seed and batch, and when the teacher is gone; but for float16's rounding."""
    by = ("--backend", backend)
    done = teach("targets", "--top-k", 320, "--temperature", 2, *by)
    assert done.code == 0, done.err
    own = ("train.seed=3", "train.batch_size=6", "teacher.temperature=2")
    assert run("online", f"teacher.path={teacher}", *own, more=by).code == 0
    shutil.rmtree(teacher)
    taught = run("taught", f"teacher.path={tmp_path / 'targets'}", *own, more=by)
    assert taught.code == 0, taught.err
    np.testing.assert_allclose(losses(tmp_path / "taught"), losses(tmp_path / "online"), rtol=1e-4, atol=5e-4)
    stopped = (f"teacher.path={tmp_path / 'targets'}", *own)
    assert run("stopped", *stopped, "train.stop_after=3", more=by).code == 0
    assert run("stopped", *stopped, more=by).code == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "taught")


def test_the_likeliest_are_kept(teach: Call, tmp_path: Path, prepared: Dataset) -> None:
    """The same ones by both backends, of every window; and in parts as in one."""
    assert teach("one", "--top-k", 5).code == 0
    assert teach("two", "--top-k", 5, "--backend", "mlx", "--batch-size", 3).code == 0
    one, two = (SoftTargetSet(tmp_path / name) for name in ("one", "two"))
    count = prepared.split("train").windows(16)
    assert one.description.windows == count
    found = [each.read(np.arange(count)) for each in (one, two)]
    for number, each in enumerate(found):
        assert each.ids.shape == (count, 16, 5)
        order = np.argsort(each.ids, axis=-1)
        found[number] = SoftTargets(
            np.take_along_axis(each.ids, order, -1), np.take_along_axis(each.log_probabilities, order, -1)
        )
    same = (found[0].ids == found[1].ids).all(-1)
    assert same.mean() > 0.99, "but for ties"
    np.testing.assert_allclose(found[0].log_probabilities[same], found[1].log_probabilities[same], atol=1e-2)


def test_the_command_that_learns_fits_what_was_written(
    lost: Call, run: Call, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its configuration has for the length and the temperature, and its data for the vocabulary."""
    assert run("wide", "model.vocab_size=330", "schedule.steps=3").code == 0
    more = ("--top-k", 5, "--seq-len", 8, "--temperature", 2.5, "--device", "cpu")
    done = lost("teach", tmp_path / "wide", "--data", prepared.path, "--out", tmp_path / "my targets", *more)
    words = shlex.split(done.out.split("`")[1])
    assert words[:3] == ["lost", "train", "CONFIG"]
    monkeypatch.chdir(tmp_path)
    started = lost("train", tiny_yaml, *words[3:], "--device", "cpu", "--dry-run")
    assert started.code == 0, started.err


def test_what_was_interrupted_goes_on(teach: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by = ("--backend", "torch")
    monkeypatch.setattr(writer.write_soft_targets, "__defaults__", (1 << 10,))
    assert teach("whole", "--top-k", 4, *by).code == 0
    own, asked = TorchEngine.predict, []

    def short(self: TorchEngine, batches: Any, *how: Any) -> Iterator[SoftTargets]:
        for number, each in enumerate(own(self, batches, *how)):
            asked.append(number)
            if number == 9:
                raise DataError("the power went")
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "predict", short)
        assert teach("cut", "--top-k", 4, *by).code == 2
    assert not (tmp_path / "cut").exists()
    other = teach("cut", "--top-k", 3, *by)
    assert (other.code, "the beginning of other soft targets" in other.err) == (2, True), other.err
    damaged = next(tmp_path.glob("*cut*/log_probabilities-00001.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    again = teach("cut", "--top-k", 4, *by)
    assert (again.code, "going on after window " in again.err) == (0, True), again.err
    assert f"{damaged.name} " in again.err
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) > 5
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_what_float16_has_no_number_for(teach: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least likely entries stay finite; a model that predicts no numbers is refused."""
    own = TorchEngine.predict

    def with_last(value: float) -> Any:
        def predict(self: TorchEngine, batches: Any, *how: Any) -> Iterator[SoftTargets]:
            for each in own(self, batches, *how):
                each.log_probabilities[..., -1] = value
                yield each

        return predict

    monkeypatch.setattr(TorchEngine, "predict", with_last(-1e6))
    assert teach("cold", "--top-k", 4, "--backend", "torch").code == 0
    assert SoftTargetSet(tmp_path / "cold").read(np.array([0])).log_probabilities.min() == -65504
    monkeypatch.setattr(TorchEngine, "predict", with_last(np.nan))
    refused = teach("nan", "--top-k", 4, "--backend", "torch")
    assert (refused.code, "log-probabilities that are not finite" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "nan").exists()


def test_targets_of_another_set_length_or_temperature_are_refused(
    lost: Call, teach: Call, run: Call, prepared: Dataset, text_folder: Path, tmp_path: Path
) -> None:
    assert teach("targets", "--top-k", 4).code == 0
    named = f"teacher.path={tmp_path / 'targets'}"
    for settings, words in {
        ("data.seq_len=8",): "set data.seq_len=16",
        ("teacher.temperature=2",): "set teacher.temperature=1",
        ("model.vocab_size=400",): "set model.vocab_size=320",
    }.items():
        refused = run("run", named, *settings)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    other = (
        "prepare",
        text_folder,
        "--tokenizer",
        prepared.path,
        "--valid-fraction",
        "0.3",
        "--out",
        tmp_path / "data",
    )
    assert lost(*other).code == 0
    refused = run("run", named, data=tmp_path / "data")
    assert (refused.code, "soft targets are of other data" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "run").exists()


def test_examples_are_taught_where_they_are_learned(
    lost: Call, teach: Call, run: Call, teacher: Path, prepared: Dataset, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"rank {n} of", "completion": f" layer {n}"}) for n in range(60)]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    made = lost("prepare", tmp_path / "examples.jsonl", "--examples", "--tokenizer", prepared.path,
                "--out", tmp_path / "data", "--valid-fraction", "0.2")  # fmt: skip
    assert made.code == 0, made.err
    data = tmp_path / "data"
    assert teach("targets", "--top-k", 320, data=data).code == 0
    assert run("kept", f"teacher.path={tmp_path / 'targets'}", data=data).code == 0
    assert run("online", f"teacher.path={teacher}", data=data).code == 0
    np.testing.assert_allclose(losses(tmp_path / "kept"), losses(tmp_path / "online"), rtol=1e-4, atol=5e-4)


def test_a_run_s_soft_targets_are_verified_with_it(teach: Call, run: Call, lost: Call, tmp_path: Path) -> None:
    assert teach("targets", "--top-k", 4).code == 0
    assert run("kept", f"teacher.path={tmp_path / 'targets'}").code == 0
    assert lost("verify", tmp_path / "kept").code == 0
    (tmp_path / "targets" / "ids-00000.bin").write_bytes(b"")
    found = lost("verify", tmp_path / "kept")
    assert (found.code, "ids-00000.bin is 0 bytes long" in found.out) == (2, True), found.out


def test_what_is_damaged_or_hostile_is_refused(lost: Call, teach: Call, run: Call, tmp_path: Path) -> None:
    assert teach("targets", "--top-k", 4).code == 0
    folder, said = tmp_path / "targets", f"teacher.path={tmp_path / 'targets'}"
    ids = folder / "ids-00000.bin"
    before, described = ids.read_bytes(), read_sealed_json(folder / DESCRIPTION)
    ids.write_bytes(b"\xff\xff" + before[2:])
    refused = run("run", said)
    assert (refused.code, "doesn't have the checksum" in refused.err) == (2, True), refused.err
    assert lost("verify", folder).code == 2
    with pytest.raises(DataError, match="that no teacher has"):
        SoftTargetSet(folder).read(np.array([0]))
    ids.write_bytes(before[:-2])
    refused = run("run", said)
    assert (refused.code, "bytes long" in refused.err) == (2, True), refused.err
    ids.write_bytes(before)
    assert lost("verify", folder).code == 0
    entry = described["ids"][0]
    for change, words in {
        "top_k": ({"top_k": 321}, "321 entries of 320"),
        "format": ({"format": 2}, "format 2"),
        "sizes": ({"windows": described["windows"] + 1}, "don't hold each prediction once"),
        "name": ({"ids": [{**entry, "name": "../dataset.json"}]}, "ids.0.name"),
    }.values():
        (folder / DESCRIPTION).write_bytes(sealed_json(described | change))
        refused = run("run", said)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--top-k", 400), "--top-k 400"),
        (("--seq-len", 4000), "--seq-len 4000"),
        (("--temperature", "nan"), "--temperature"),
    ],
)
def test_what_can_not_be_asked(teach: Call, monkeypatch: pytest.MonkeyPatch, more: tuple, words: str) -> None:
    """Refused before the weights are read, which may take minutes."""
    monkeypatch.setattr("lost.training.teaching.weights_digest", lambda source: pytest.fail("they were read"))
    refused = teach("targets", *more)
    assert (refused.code, words in refused.err) == (2, True), refused.err


def test_a_temperature_that_is_no_number(
    teacher: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the command line's library lets it pass: that takes NaN for no less and no more than any bound."""
    monkeypatch.setattr("lost.training.teaching.weights_digest", lambda source: pytest.fail("they were read"))
    with pytest.raises(UserError, match="--temperature nan: expected a number"):
        lesson(open_source(teacher), prepared, tmp_path / "out", 16, 4, float("nan"), False)


def test_damaged_text_is_not_taught(teach: Call, prepared: Dataset, tmp_path: Path) -> None:
    """Its fingerprint is that of the intact set, so a run would take what was predicted there; others aren't read."""
    data = tmp_path / "data"
    shutil.copytree(prepared.path, data)
    for name, code in (("valid-00000.bin", 0), ("train-00000.bin", 2)):
        content = bytearray((data / name).read_bytes())
        content[len(content) // 2] ^= 1
        (data / name).write_bytes(content)
        answer = teach(f"of-{name}", "--top-k", 2, data=data)
        assert answer.code == code, answer.err
    assert f"{data / 'train-00000.bin'} doesn't have the checksum" in answer.err
    assert not (tmp_path / "of-train-00000.bin").exists()


def test_nothing_is_replaced_unasked(teach: Call, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    refused = teach("notes", "--top-k", 2, "--overwrite")
    assert (refused.code, "holds no soft targets" in refused.err) == (2, True), refused.err
    assert teach("targets", "--top-k", 2).code == 0
    refused = teach("targets", "--top-k", 3)
    assert (refused.code, "add --overwrite" in refused.err) == (2, True), refused.err
    assert teach("targets", "--top-k", 3, "--overwrite").code == 0
    assert SoftTargetSet(tmp_path / "targets").description.top_k == 3
