"""Muon and Spectron: against the numpy reference, torch's own class and what an orthogonal update is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from device import device_of

from lost.backends.mlx.optim import muon as on_mlx
from lost.backends.mlx.optim.spectron import Spectron as MlxSpectron
from lost.backends.mlx.optim.stacks import kinds, parted, stacked
from lost.backends.torch.bench import peak_memory
from lost.backends.torch.distributed.single_device import SingleDevice
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.optim import muon as on_torch
from lost.backends.torch.optim.spectron import Spectron as TorchSpectron
from lost.checkpoint import open_checkpoint
from lost.config import Config, OptimizerConfig
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.engine.selftest import ReferenceRun
from lost.errors import ConfigError
from lost.model import reference
from lost.model.init import initial_values
from lost.model.load import load_config
from lost.model.parameters import EMBEDDING, Parameter
from lost.optim import KINDS as OPTIMIZERS
from lost.optim import state_shapes
from lost.optim.muon import newton_schulz, pieces, scale
from lost.planning.budget import budget
from lost.planning.memory import torch as torch_memory

Lost = Callable[..., Any]
Arrays = dict[str, np.ndarray]
GRADIENTS: dict[int, Arrays] = {}


@pytest.fixture(autouse=True)
def finite_differences_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second, and many cases have the same start."""
    measured = reference.gradients

    def gradients(config: Config, weights: Arrays, tokens: np.ndarray) -> Arrays:
        key = hash((tokens.tobytes(), *(each.tobytes() for each in weights.values())))
        if key not in GRADIENTS:
            GRADIENTS[key] = measured(config, weights, tokens)
        return {name: each.copy() for name, each in GRADIENTS[key].items()}

    monkeypatch.setattr(reference, "gradients", gradients)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": "spectral", "head_lr": 5e-4},
        {"scale": "original", "split_up": True, "momentum": 0.8},
        {"name": "spectron", "lr": 4e-2},
        *({"name": name, "base_width": 2, "weight_decay": 0.5} for name in ("adamw", "muon", "spectron")),
    ],
    ids=["defaults", "spectral", "original, split", "spectron", "adamw, wider", "muon, wider", "spectron, wider"],
)
def test_one_step_against_the_reference(backend: str, settings: dict[str, Any]) -> None:
    optimizer = {"name": "muon", "lr": 3e-3, "embedding_lr": 1e-3, **settings}
    run = ReferenceRun(ReferenceRun.of("lost").config.replace("optimizer", **optimizer), steps=1)
    engine = create_engine(run.config, backend, device_of(backend))
    engine.load(run.start.items())
    (tokens,) = run.batches
    parts = [Batch(tokens[:2]), Batch(tokens[2:])]
    loss = engine.step(parts, tokens[:, 1:].size, run.config.optimizer.lr).wait()[0]
    assert abs(loss - run.losses[0]) < 1e-6
    assert_near(dict(engine.dump()), run.weights)
    assert_near(dict(engine.optimizer_state()), run.moments)


def assert_near(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 1e-5 * np.linalg.norm(value), name


ROWS = [Parameter(EMBEDDING, (40, 16)), Parameter("norm.weight", (16,)), Parameter("a.up", (24, 10), parts=(6, 4))]
ROWS += [Parameter(f"{name}.down", (6, 16)) for name in "ab"]  # one group of two
ROWS += [Parameter("b.up", (24, 6))]
TABLE = {row.name: row for row in ROWS}


UPDATES: dict[str, dict[str, Any]] = {
    "torch": {"muon": on_torch.Muon, "spectron": TorchSpectron},
    "mlx": {"muon": on_mlx.Muon, "spectron": MlxSpectron},
}


def updated_by_torch(settings: OptimizerConfig, weights: Arrays, gradients: list[Arrays]) -> Arrays:
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}
    update = UPDATES["torch"][settings.name](settings, tensors, TABLE, SingleDevice())
    for each in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(each[name].astype(np.float32))
        update.step(settings.lr, torch.tensor(False))
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.grad = torch.full_like(tensor, float("nan"))
        update.step(settings.lr, torch.tensor(True))  # skipped: neither weights nor momenta have changed
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def updated_by_mlx(settings: OptimizerConfig, weights: Arrays, gradients: list[Arrays]) -> Arrays:
    arrays = {name: mx.array(value.astype(np.float32)) for name, value in weights.items()}
    names = kinds(settings, ROWS)
    assert ("a.down", "b.down") in names
    stacks = stacked(arrays, names)
    update = UPDATES["mlx"][settings.name](settings, stacks, TABLE)
    for each in gradients:
        given = stacked({name: mx.array(x.astype(np.float32)) for name, x in each.items()}, names)
        stacks = update.step(settings.lr, stacks, given)
        mx.eval(stacks, update.held())
    return {name: np.array(array) for name, array in parted(stacks)}


def test_spectron_bounds_the_product() -> None:
    """However large the factors, a step changes the product's largest singular value by no more than about lr."""
    random, settings = np.random.default_rng(0), OptimizerConfig(name="spectron", lr=0.1)
    for factor in (0.1, 1.0, 30.0):
        weights = {row.name: factor * random.standard_normal(row.shape) for row in ROWS if row.name[0] in "ab"}
        gradients = {name: random.standard_normal(each.shape) for name, each in weights.items()}
        optimizer = OPTIMIZERS["spectron"](settings)
        states = {name: {k: np.zeros(s) for k, s in optimizer.shapes(TABLE[name]).items()} for name in weights}
        for _ in range(5):  # until the power iteration has settled
            moved = optimizer.step(TABLE, weights, gradients, states, settings.lr, 1)
        change = moved["b.up"] @ moved["b.down"] - weights["b.up"] @ weights["b.down"]
        assert 0.2 * settings.lr < np.linalg.svd(change, compute_uv=False)[0] < 1.4 * settings.lr


@pytest.mark.parametrize("updated", [updated_by_torch, updated_by_mlx])
@pytest.mark.parametrize("chosen", [{}, {"split_up": True}, {"name": "spectron", "lr": 4e-2}])
def test_twenty_updates_against_the_reference(updated: Callable[..., Arrays], chosen: dict[str, Any]) -> None:
    random, settings = np.random.default_rng(0), OptimizerConfig(**{"name": "muon", "weight_decay": 0.1, **chosen})
    weights = {row.name: random.standard_normal(row.shape) for row in ROWS}
    gradients = [{row.name: random.standard_normal(row.shape) for row in ROWS} for _ in range(20)]
    found = updated(settings, weights, gradients)
    optimizer, expected = OPTIMIZERS[settings.name](settings), dict(weights)
    states = {row.name: {kind: np.zeros(shape) for kind, shape in optimizer.shapes(row).items()} for row in ROWS}
    for number, each in enumerate(gradients, 1):
        expected = optimizer.step(TABLE, expected, each, states, settings.lr, number)
    assert_near(found, expected)


def matrices(shape: tuple[int, int], condition: float) -> np.ndarray:
    """Two matrices whose singular values fall from 1 to 1 / condition."""
    random, rank = np.random.default_rng(0), min(shape)
    left, right = (np.linalg.qr(random.standard_normal((2, side, rank)))[0] for side in shape)
    return (left * np.geomspace(1, 1 / condition, rank)) @ right.swapaxes(1, 2)


def on_both(x: np.ndarray, dtype: str = "float32") -> list[np.ndarray]:
    tall = x.shape[1] >= x.shape[2]
    given = torch.from_numpy(x).to(getattr(torch, dtype))
    theirs = on_torch.newton_schulz(given) if tall else on_torch.newton_schulz(given.mT).mT
    own = on_mlx.newton_schulz(mx.array(x.astype(np.float32)).astype(getattr(mx, dtype)))
    return [theirs.float().numpy(), np.array(own.astype(mx.float32))]


@pytest.mark.parametrize("shape", [(64, 256), (256, 72), (96, 96)])
@pytest.mark.parametrize("condition", [3, 1e2, 1e4])
def test_iterations_against_the_plain_form(shape: tuple[int, int], condition: float) -> None:
    """The Gram matrix between two products with the matrix itself is as exact as five products are."""
    x = matrices(shape, condition)
    expected = np.stack([newton_schulz(each) for each in x])
    for result in on_both(x):
        assert np.linalg.norm(result - expected) / np.linalg.norm(expected) < 1e-5


@pytest.mark.parametrize(("kind", "name"), [("dense", "muon"), ("lost", "muon"), ("cola", "spectron")])
def test_an_update_takes_what_is_planned_however_many_matrices_there_are(
    config: Callable[..., Config], kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few matrices at a time: to the same end, in less than half of the memory."""
    settings = config(
        model={"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        projection={"kind": kind, "rank": 16, "density": 0.25},
        optimizer={"name": name},
        train={"batch_size": 1, "micro_batch_size": 1},
    )
    batch, peaks, ends = Batch(np.zeros((1, 9), np.int32)), [], []
    for most in (1 << 26, 2 * 64 * 16):
        monkeypatch.setattr("lost.optim.muon.AT_ONCE", most)
        engine = create_engine(settings, "torch", "cpu")
        assert isinstance(engine, TorchEngine)
        engine.load(initial_values(settings))
        engine.step([batch], 8, 1e-3)
        peaks.append(peak_memory("cpu", lambda engine=engine: engine._optimizer.step(1e-3, torch.tensor(False)))[1])
        assert peaks[-1] == pytest.approx(torch_memory.update(settings, 1), rel=0.15 if name == "muon" else 0.35)
        ends.append({name: array.copy() for name, array in engine.dump()})
        if most > peaks[0]:
            assert budget(settings).memory.activations == torch_memory.update(settings, 1)
    assert peaks[1] < 0.5 * peaks[0]
    assert_near(ends[1], ends[0])


@pytest.mark.parametrize("most", [1, 3 * 96 * 64])
def test_turns_on_mlx_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of many matrices no more are orthogonalized at a time than memory is planned for."""
    stacks = [mx.array(matrices(shape, 10).astype(np.float32)) for shape in ((96, 64), (64, 96), (96, 16))]
    stacks = [mx.concatenate([each, 2 * each]) for each in stacks]
    expected = [np.array(each) for each in on_mlx.orthogonalized(stacks)]
    plain, sizes = on_mlx.newton_schulz, list[int]()
    monkeypatch.setattr(on_mlx, "AT_ONCE", most)
    monkeypatch.setattr(on_mlx, "newton_schulz", lambda x: sizes.append(x.size) or plain(x))
    for found, value in zip(on_mlx.orthogonalized(stacks), expected, strict=True):
        np.testing.assert_allclose(np.array(found), value, atol=1e-6)
    assert max(sizes) <= max(most, 96 * 64)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 0.68, 1.21), ("bfloat16", 0.6, 1.3)])
def test_singular_values_near_one(dtype: str, low: float, high: float) -> None:
    """Of singular values over a factor 100, as the iteration's polynomial has it: [.68, 1.21]."""
    for result in on_both(matrices((256, 64), 100), dtype):
        values = np.linalg.svd(result, compute_uv=False)
        assert low < values.min()
        assert values.max() < high


def test_zero_gradient_stays_zero() -> None:
    for result in on_both(np.zeros((2, 8, 4))):
        assert not result.any()


def test_direction_of_the_original() -> None:
    """torch's own class, whose products are in bfloat16."""
    gradient = torch.from_numpy(matrices((96, 64), 10)[0]).float()
    weight = torch.nn.Parameter(torch.zeros(96, 64))
    weight.grad = gradient.clone()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0).step()
    theirs, own = -weight.detach().numpy(), newton_schulz(gradient.numpy())
    cosine = (theirs * own).sum() / np.linalg.norm(theirs) / np.linalg.norm(own)
    assert cosine > 1 - 1e-3


def test_scales() -> None:
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 64)))[0]
    update = scale("match_rms_adamw", 256, 64) * orthogonal
    assert np.sqrt((update**2).mean()) == pytest.approx(0.2 * 2 * 64**0.5 / 16)  # .2 where the matrix is square
    assert scale("spectral", 256, 64) == 2
    assert scale("spectral", 64, 256) == 0.5
    assert scale("original", 64, 256) == 1


def test_parts_of_up() -> None:
    row = Parameter("model.layers.0.mlp.up_proj.up", (10, 6), parts=(4, 2))
    assert list(pieces(row, False)) == [slice(0, 6)]
    assert list(pieces(row, True)) == [slice(0, 4), slice(4, 6)]


def test_one_moment_instead_of_two(config: Callable[..., Config]) -> None:
    shapes = state_shapes(config(optimizer={"name": "muon"}))
    kinds = {name.rpartition(".")[2] for name in shapes if "_proj" in name}
    assert kinds == {"momentum_buffer"}
    assert {name.rpartition(".")[2] for name in shapes if "embed" in name or "norm" in name} == {
        "exp_avg",
        "exp_avg_sq",
    }


def test_spectron_splits_nothing(tiny_yaml: Path) -> None:
    with pytest.raises(ConfigError, match="it updates factors as a whole"):
        load_config(tiny_yaml, ["optimizer.name=spectron", "optimizer.split_up=true"])


def test_bfloat16_weights_are_refused(tiny_yaml: Path) -> None:
    with pytest.raises(ConfigError, match="needs float32 weights"):
        load_config(tiny_yaml, ["optimizer.name=muon", "train.dtype=bfloat16", "train.param_dtype=bfloat16"])


def test_resumed_and_handed_over(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Stopped and resumed it is the same to the bit; with the other backend for some steps, near it."""

    def train(out: str, stop: int, backend: str = "torch") -> None:
        sets = (f"train.stop_after={stop}", "optimizer.name=muon", "optimizer.split_up=true", "train.save_every=0",
                "optimizer.base_width=8")  # fmt: skip
        words = [word for value in sets for word in ("--set", value)]
        answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / out, "--backend", backend,
                      "--device", "cpu", *words)  # fmt: skip
        assert answer.code == 0, answer.err

    for out, lives in {
        "straight": [(9, "torch")],
        "resumed": [(4, "torch"), (9, "torch")],
        "moved": [(3, "torch"), (6, "mlx"), (9, "torch")],
    }.items():
        for stop, backend in lives:
            train(out, stop, backend)
    ends = {out: open_checkpoint(tmp_path / out / "checkpoints" / "step-00000009") for out in ("straight", "resumed")}
    arrays = [{name: each.tobytes() for name, each in (*end.parameters(), *end.moments())} for end in ends.values()]
    assert arrays[0] == arrays[1]
    moved = dict(open_checkpoint(tmp_path / "moved" / "checkpoints" / "step-00000009").parameters())
    for name, value in ends["straight"].parameters():
        np.testing.assert_allclose(moved[name], value, rtol=0, atol=1e-4)
