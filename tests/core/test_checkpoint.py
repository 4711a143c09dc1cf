"""Checkpoints on disk: what is in them, what is refused, what is kept. A stand-in takes the engine's place."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lost import checkpoint
from lost.checkpoint import Origin, TrainState, newest_valid, open_checkpoint, prune
from lost.checkpoint.lineage import kept, kept_of_part, line
from lost.checkpoint.saver import Saver
from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import SingleProcess
from lost.engine import create_engine
from lost.errors import CheckpointError
from lost.model.init import initial_values
from lost.optim import state_shapes
from lost.optim.gradients.skip_step import GuardState
from lost.storage.files import read_sealed_json, sealed_json
from lost.storage.tensors import read_tensors, write_tensors
from lost.tracking import Tracker
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_rows
from lost.training.trainer import train


class StandIn:
    workers, first_rows, yields_views = SingleProcess(), {}, False  # type: ignore[var-annotated]

    def __init__(self, config: Config) -> None:
        self._config = config

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        return initial_values(self._config)

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((name, np.ones(shape, np.float32)) for name, shape in state_shapes(self._config).items())


Save = Callable[..., checkpoint.Checkpoint]
GATE = "model.layers.1.mlp.gate_proj"


def the_run(config: Callable[..., Config]) -> Config:
    return config(model={"vocab_size": 320}, train={"keep_last": 1000})


@pytest.fixture
def save(prepared: Dataset, config: Callable[..., Config], tmp_path: Path) -> Save:
    def write(step: int, loss: float | None = None, guard: GuardState = GuardState()) -> checkpoint.Checkpoint:  # noqa: B008
        progress = TrainState(step, 4 * step, data=prepared.fingerprint, validation_loss=loss, guard=guard)
        run = the_run(config)
        saver = Saver(tmp_path / "checkpoints", run, StandIn(run), prepared.tokenizer)  # type: ignore[arg-type]
        saver.start(progress)
        saved = saver.finish(wait=True)
        assert saved
        return open_checkpoint(saved.path)

    return write


def test_comes_back_whole(save: Save, prepared: Dataset, config: Callable[..., Config], tmp_path: Path) -> None:
    saved = save(7, 1.5)
    found, rejected = newest_valid(tmp_path / "checkpoints")
    assert found == saved
    assert rejected == []
    assert found.config == the_run(config)
    assert found.progress == TrainState(7, 28, 0, 0.0, prepared.fingerprint, 1.5)
    arrays, meant = dict(found.parameters()), dict(initial_values(the_run(config)))
    assert {name: each.tobytes() for name, each in arrays.items()} == {n: each.tobytes() for n, each in meant.items()}
    assert arrays[f"{GATE}.channels"].dtype == np.int32
    assert {name for name, _ in found.moments()} == state_shapes(the_run(config)).keys()
    assert found.tokenizer().fingerprint == prepared.tokenizer.fingerprint
    assert (tmp_path / "latest").read_text() == "checkpoints/step-00000007\n"
    assert {path.name for path in saved.path.iterdir()} == {
        "manifest.json", "config.json", "tokenizer.model", "model-00001.safetensors", "optimizer-00001.safetensors"
    }  # fmt: skip


def test_only_views_are_copied(prepared: Dataset, config: Callable[..., Config], tmp_path: Path) -> None:
    """An accelerator's arrays are copies already."""
    engine, array = StandIn(the_run(config)), np.zeros(3)
    for views in (False, True):
        engine.yields_views = views
        saver = Saver(tmp_path, the_run(config), engine, prepared.tokenizer)  # type: ignore[arg-type]
        [(_, kept)] = saver._kept([("a", array)])
        assert np.shares_memory(kept, array) is not views


@pytest.mark.parametrize(
    "name", ["model-00001.safetensors", "optimizer-00001.safetensors", "config.json", "tokenizer.model"]
)
def test_any_changed_byte_is_found_and_the_one_before_taken(save: Save, tmp_path: Path, name: str) -> None:
    save(1)
    newer = save(2)
    content = bytearray((newer.path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (newer.path / name).write_bytes(content)
    found, rejected = newest_valid(tmp_path / "checkpoints")
    assert found
    assert found.progress.step == 1
    assert name in rejected[0]
    (newer.path / name).write_bytes(content[:-1])
    assert "bytes long instead of" in newest_valid(tmp_path / "checkpoints")[1][0]
    (newer.path / name).unlink()
    assert "is missing" in newest_valid(tmp_path / "checkpoints")[1][0]


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "sub/file", "..", ""])
def test_manifest_can_not_point_outside(save: Save, tmp_path: Path, name: str) -> None:
    path = save(1).path / "manifest.json"
    manifest = read_sealed_json(path)
    manifest["files"][name] = {"size": 1, "sha256": "0"}
    path.write_bytes(sealed_json(manifest))
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_checkpoint(path.parent)


def test_manifest_values_are_checked(save: Save) -> None:
    path = save(1).path / "manifest.json"
    path.write_bytes(sealed_json({**read_sealed_json(path), "samples": "many"}))
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        open_checkpoint(path.parent)


def test_a_kind_that_is_not_known_here_is_named(save: Save) -> None:
    """As of an extension: nothing is damaged."""
    path = save(1).path / "manifest.json"
    manifest = read_sealed_json(path)
    manifest["config"]["projection"]["kind"] = "theirs"
    path.write_bytes(sealed_json(manifest))
    named = r"manifest\.json: projection\.kind = 'theirs': no such option; .* an extension is missing here"
    with pytest.raises(CheckpointError, match=named) as raised:
        open_checkpoint(path.parent)
    assert "pydantic" not in str(raised.value)
    assert "damaged" not in str(raised.value)


def test_a_changed_manifest_is_found(save: Save) -> None:
    path = save(1).path / "manifest.json"
    path.write_text(path.read_text().replace('"samples": 4', '"samples": 6'))
    with pytest.raises(CheckpointError, match="doesn't have the checksum"):
        open_checkpoint(path.parent)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", sealed_json({"format": 99}), sealed_json({"format": 1})]
)
def test_foreign_manifests_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


def steps(folder: Path) -> list[int]:
    return [open_checkpoint(path).progress.step for path in checkpoint.checkpoints(folder / "checkpoints")]


def test_retention_keeps_last_best_and_multiples(save: Save, tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: 2.4, 7: 2.2}
    for step, loss in losses.items():
        save(step, loss)
    prune(tmp_path / "checkpoints", keep_last=2, keep_every=0, newest=7)
    assert steps(tmp_path) == [2, 6, 7]


def test_retention_at_multiples_and_leaves_strangers(save: Save, tmp_path: Path) -> None:
    for step in range(1, 8):
        save(step)
    stranger = tmp_path / "checkpoints" / "step-strange"
    stranger.mkdir()
    prune(tmp_path / "checkpoints", keep_last=1, keep_every=3, newest=7)
    assert stranger.exists()
    stranger.rmdir()
    assert steps(tmp_path) == [3, 6, 7]


def test_retention_never_takes_what_was_just_saved_and_sweeps_leftovers(save: Save, tmp_path: Path) -> None:
    """Steps 20 and 30 are left of a life of the run that was gone back on."""
    for step in (5, 10, 20, 30, 15):
        save(step)
    leftovers = [tmp_path / "checkpoints" / f".partial-{name}" for name in ("step-00000012", "removed-step-00000003")]
    for path in leftovers:
        path.mkdir()
    prune(tmp_path / "checkpoints", keep_last=2, keep_every=0, newest=15)
    assert steps(tmp_path) == [10, 15, 20, 30]
    assert not any(path.exists() for path in leftovers)


def test_tensors_of_all_types_in_parts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "a": random.standard_normal((5, 4)).astype(np.float32),
        "b": random.standard_normal(7).astype(ml_dtypes.bfloat16),
        "c": np.arange(3, dtype=np.int32),
        "d": random.standard_normal((2, 3)).astype(np.float32).T,
    }
    seals = write_tensors(tmp_path, "model", arrays.items(), part_bytes=60)
    assert list(seals) == ["model-00001.safetensors", "model-00002.safetensors"]
    back = dict(read_tensors([tmp_path / name for name in seals]))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_training_time_never_runs_backwards(
    prepared: Dataset, config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each save waits for the one before: what it waits for is no training, and is left out once."""

    def slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.2)
        return write_tensors(*arguments, **named)

    monkeypatch.setattr("lost.checkpoint.saver.write_tensors", slowly)
    every = {"save_every": 1, "log_every": 1, "eval_every": 0}
    settings = config(model={"vocab_size": 320}, data={"path": str(prepared.path)}, train=every, schedule={"steps": 5})
    train(settings, tmp_path, prepared, create_engine(settings, "torch", "cpu"), Tracker())
    seconds = [row["seconds"] for row in read_rows(tmp_path / METRICS) if "loss" in row]
    assert len(seconds) == 5
    assert seconds == sorted(seconds)


def generations(count: int, **odd: Any) -> Origin:
    """A line of branches on one text, of which the one in the middle is odd."""
    made = None
    for step in range(count):
        fields = odd if step == count // 2 else {}
        made = Origin(f"run-{step}", step, "", **{"moments": True, "data": "text", **fields, "before": made})
    assert made
    return made


@pytest.mark.parametrize("odd", [{}, {"moments": False}, {"data": "other"}])
def test_a_line_of_origins_is_shortened(odd: dict[str, Any]) -> None:
    """The first says whether all that is left out branched on the same text: laws of runs ask that."""
    whole = generations(90, **odd)
    for short in (kept(whole), kept(kept(whole))):
        assert short
        assert [each.step for each in line(short)] == [*range(89, 74, -1), 0]
        assert [each.omitted for each in line(short)] == [0] * 14 + [74, 0]
        assert [each.moments for each in line(short)] == [True] * 15 + [not odd]
    assert kept(None) is None
    assert kept(few := generations(16)) == few


def test_an_average_within_an_average_names_no_parts() -> None:
    parts = [replace(generations(3), share=0.5) for _ in range(2)]
    average = Origin("a + b", None, "", parts=tuple(parts))
    short = kept_of_part(Origin("merged", 7, "", before=average))
    assert short
    assert [(each.path, each.parts, each.omitted) for each in line(short)] == [("merged", (), 3), ("run-0", (), 0)]
    again = kept(Origin("merged", 7, "", before=average))
    assert again
    assert again.before
    assert [each.path for each in again.before.parts] == ["run-2"] * 2
    assert [each.step for each in line(again)] == [7, None, 2, 1, 0]
