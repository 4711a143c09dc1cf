"""Extensions: a projection and an optimizer from a file outside the package, registered by name, train and resume."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.data.loader import Batch
from lost.engine import BACKENDS, create_engine
from lost.engine.selftest import ALLOWED, _Expected
from lost.errors import BackendError, ConfigError
from lost.model.load import load_config
from lost.optim import KINDS as OPTIMIZERS
from lost.projections import KINDS as PROJECTIONS

Lost = Callable[..., Any]
SETS = ("projection.kind=scaled", "optimizer.name=momentum", "train.stop_after=1", "train.save_every=1")


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_steps_saved_and_resumed(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, registered: None, backend: str
) -> None:
    words = [word for value in SETS for word in ("--set", value)]
    command = ("train", tiny_yaml, "--data", prepared.path, "--backend", backend, *words)
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
    expected = _Expected(
        _Expected.of("dense").config.replace("projection", kind="scaled").replace("optimizer", name="momentum")
    )
    engine = create_engine(expected.config, backend, "cpu")
    engine.load(expected.start.items())
    for tokens, loss in zip(expected.batches, expected.losses, strict=True):
        parts = [Batch(tokens[:2]), Batch(tokens[2:])]
        found = engine.step(parts, tokens[:, 1:].size, expected.config.optimizer.lr).read()[0]
        assert abs(found - loss) <= ALLOWED["float32"]["losses"]


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


def test_unknown_names(tiny_yaml: Path) -> None:
    for setting, words in (
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
    with pytest.raises(BackendError, match=r"the mlx backend can't compute it; expected one that can \(torch\)"):
        create_engine(config, "mlx", "cpu")
