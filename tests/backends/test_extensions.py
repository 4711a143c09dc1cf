"""Extensions: one of each kind from a file outside the package, registered by name, train and resume."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from device import device_of

from lost.checkpoint import open_checkpoint
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.engine.selftest import ALLOWED, ReferenceRun
from lost.errors import BackendError, ConfigError
from lost.model.load import load_config
from lost.optim import KINDS as OPTIMIZERS
from lost.optim.rates.schedule import KINDS as SCHEDULES
from lost.optim.rates.schedule import Schedule
from lost.prepare.reading import KINDS as FORMATS
from lost.projections import KINDS as PROJECTIONS
from lost.tokenizer import KINDS as TOKENIZERS
from lost.tracking import KINDS as TRACKERS

Lost = Callable[..., Any]
SETS = ("projection.kind=scaled", "optimizer.name=momentum", "train.save_every=1", "train.inspect_every=1")


@pytest.fixture(scope="module")
def toy() -> Iterator[ModuleType]:
    """The extension, imported under a name that its own lines can name."""
    spec = importlib.util.spec_from_file_location("toy_extension", Path(__file__).with_name("toy.py"))
    assert spec
    assert spec.loader
    module = sys.modules["toy_extension"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["toy_extension"]


@pytest.fixture
def registered(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROJECTIONS, "scaled", toy.Scaled)
    monkeypatch.setitem(OPTIMIZERS, "momentum", toy.Momentum)
    monkeypatch.setitem(SCHEDULES, "halving", Schedule(toy.halving))
    monkeypatch.setitem(TOKENIZERS, toy.Letters.FILE, toy.Letters)
    monkeypatch.setitem(FORMATS, "verses", toy.Verses())
    monkeypatch.setitem(TRACKERS, "diary", toy.Diary)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_steps_saved_and_resumed(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, registered: None, backend: str
) -> None:
    words = [word for value in SETS for word in ("--set", value)]
    command = ("train", tiny_yaml, "--data", prepared.path, "--backend", backend, "--device", "cpu", *words)
    for out, stops in (("straight", (2,)), ("resumed", (1, 2))):
        for stop in stops:
            answer = lost(*command, "--out", tmp_path / out, "--set", f"train.stop_after={stop}")
            assert answer.code == 0, answer.err
        assert lost("verify", tmp_path / out).code == 0
    ends = [open_checkpoint(tmp_path / out / "checkpoints" / "step-00000002") for out in ("straight", "resumed")]
    arrays = [{name: each.tobytes() for name, each in (*end.parameters(), *end.moments())} for end in ends]
    assert arrays[0] == arrays[1]
    assert "model.layers.0.mlp.up_proj.scale.momentum" in arrays[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_against_the_reference(registered: None, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device compared with numpy, as `lost doctor --self-test` does it for the kinds that come with it."""
    expected = ReferenceRun(
        ReferenceRun.of("dense").config.replace("projection", kind="scaled").replace("optimizer", name="momentum")
    )
    engine = create_engine(expected.config, backend, device_of(backend))
    engine.load(expected.start.items())
    for tokens, loss in zip(expected.batches, expected.losses, strict=True):
        parts = [Batch(tokens[:2]), Batch(tokens[2:])]
        found = engine.step(parts, tokens[:, 1:].size, expected.config.optimizer.lr).wait()[0]
        assert abs(found - loss) <= ALLOWED["float32"]["losses"]


def test_schedule_and_tracker(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, registered: None) -> None:
    """The schedule's rate is the one that is used; the tracker is told of each event once, and begins again after 2."""
    sets = ("schedule.name=halving", "schedule.warmup_steps=0", "optimizer.lr=0.5", "train.log_every=1",
            "train.save_every=2", "tracking.diary={file: diary.txt}")  # fmt: skip
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu")
    words = [word for value in sets for word in ("--set", value)]
    for stop in (2, 3):
        answer = lost(*command, *words, "--set", f"train.stop_after={stop}")
        assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows if "loss" in row] == [0.5, 0.25, 0.125]
    assert (tmp_path / "run" / "diary.txt").read_text().split("\n") == [
        "begin 0", "step 1", "step 2", "validation 2", "checkpoint step-00000002", "close",
        "begin 2", "step 3", "validation 3", "checkpoint step-00000003", "close", "",
    ]  # fmt: skip


def test_a_tracker_that_fails(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, registered: None, toy: ModuleType, monkeypatch: Any
) -> None:
    def fail(self: object, row: object) -> None:
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(toy.Diary, "step", fail)
    sets = ["--set", "train.log_every=1", "--set", "train.stop_after=3", "--set", "tracking.diary={file: diary.txt}"]
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu", *sets)
    assert answer.code == 0, answer.err
    assert answer.out.count("tracking.diary failed (RuntimeError: the server is gone)") == 1
    assert (tmp_path / "run" / "diary.txt").read_text() == "begin 0\n"  # not told any more


def test_a_tracker_that_is_unknown(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, "--set", "tracking.diary=true")
    assert answer.code == 2
    assert "tracking = 'diary': no such option" in answer.err
    assert not run.exists()


def test_tokenizer(lost: Lost, text_folder: Path, tmp_path: Path, registered: None, toy: ModuleType) -> None:
    toy.Letters().save(tmp_path)
    out = tmp_path / "data"
    answer = lost("prepare", text_folder, "--tokenizer", tmp_path, "--valid-fraction", "0.1", "--out", out)
    assert answer.code == 0, answer.err
    split = Dataset(out).split("train")
    text = toy.Letters().decode(split.read(0, split.tokens).tolist())
    assert any(text.startswith(path.read_text()) for path in text_folder.iterdir())


def test_format(lost: Lost, prepared: Dataset, tmp_path: Path, registered: None) -> None:
    (tmp_path / "a.verses").write_text("\n\n".join(f"the rank of verse {number}" for number in range(40)))
    common = ("prepare", tmp_path / "a.verses", "--tokenizer", prepared.path, "--valid-fraction", "0.1", "--json")
    answer = lost(*common, "--out", tmp_path / "data", "--workers", "2")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert value["train"]["documents"] + value["valid"]["documents"] == 40


def test_found_by_an_entry_point(toy: ModuleType, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def load(self) -> None:
            monkeypatch.setitem(PROJECTIONS, "scaled", toy.Scaled)

    monkeypatch.setattr(
        "lost.config.registry.entry_points", lambda group: [Point()] if group == "lost.extensions" else []
    )
    assert load_config(tiny_yaml, ["projection.kind=scaled"]).projection.kind == "scaled"
    monkeypatch.delitem(PROJECTIONS, "scaled")
    monkeypatch.undo()


def test_what_is_no_one_matrix_has_no_spectrum(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, registered: None, toy: ModuleType, monkeypatch: Any
) -> None:
    """Of a kind with an activation, which only it could take for the identity: in answers, training and reports."""

    class Bent(toy.Scaled):
        has_activation = True

        def merged(self, values: object) -> Any:
            raise AssertionError("asked for one matrix")

    monkeypatch.setitem(PROJECTIONS, "bent", Bent)
    sets = ("projection.kind=scaled", "projection.overrides={'*.mlp.*': {kind: bent}}", "train.inspect_every=2")
    words = [word for value in (*sets, "schedule.steps=2") for word in ("--set", value)]
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch", *words)
    assert done.code == 0, done.err
    plain = {f"model.layers.{n}.self_attn.{part}_proj" for n in range(2) for part in "qkvo"}
    (row,) = (each for each in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
              if "spectral_norm" in each)  # fmt: skip
    assert row["spectral_norm"].keys() == row["effective_rank"].keys() == plain
    answer = lost("inspect", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    layers = json.loads(answer.out)["layers"]
    keys = ("norm", "spectrum", "effective_rank", "sparse_share")
    seen = {each["name"]: [each[key] for key in keys] for each in layers}
    assert len(seen) == 14
    assert {name for name, values in seen.items() if values[0] and values[2]} == plain
    assert all(values == [None] * 4 for name, values in seen.items() if name not in plain)
    shown = lost("inspect", tmp_path / "run").out
    assert "bent has an activation or reads earlier tokens, so it is no one matrix" in " ".join(shown.split())
    assert lost("report", tmp_path / "run", "--out", tmp_path / "report.html").code == 0


def test_unknown_names(tiny_yaml: Path) -> None:
    for setting, words in (
        ("schedule.name=cosin", "did you mean 'cosine'"),
        ("projection.kind=lots", "did you mean 'lost'"),
        ("optimizer.name=adam", "did you mean 'adamw'"),
        ("projection.overrides={'*.q_proj': {kind: lots}}", "did you mean 'lost'"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(tiny_yaml, [setting])


def test_a_backend_that_has_none(registered: None, toy: ModuleType, tiny_yaml: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(toy.Scaled, "layers", {"torch": "nowhere:Layer"})
    config = load_config(tiny_yaml, ["projection.kind=scaled", "model.vocab_size=320"])
    with pytest.raises(BackendError, match="nowhere:Layer can't be imported"):
        create_engine(config, "torch", "cpu")
    with pytest.raises(BackendError, match=r"the mlx backend doesn't implement it; expected one that does \(torch\)"):
        create_engine(config, "mlx", "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_half_of_its_own_is_called(backend: str) -> None:
    """LOST's is computed for several layers at once, which must not pass over what a subclass makes of it."""
    layers = importlib.import_module(f"lost.backends.{backend}.layers")

    class Own(layers.Lost):
        def narrow(self, x: Any) -> Any:
            return "own"

    three = [Own.__new__(Own) for _ in range(3)]
    found = layers.narrow(three, None, True) if backend == "torch" else layers.Group(*three).narrow(None)
    assert found == ["own"] * 3
