"""Stacks of parameters in MLX: which are made, how they are parted and joined, and updates of them."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import checkpointing
from lost.backends.mlx.optim.muon import newton_schulz, orthogonalized
from lost.backends.mlx.optim.stacks import joined, kinds, parted, split, stacked, view
from lost.config import Config, OptimizerConfig
from lost.data.batch import Batch
from lost.model.init import initial_values
from lost.model.parameters import EMBEDDING, HEAD, Parameter

ROWS = [Parameter(EMBEDDING, (3, 2)), *(Parameter(f"{name}.down", (3, 2)) for name in "abcd"), Parameter(HEAD, (3, 2))]
NAMES = tuple(row.name for row in ROWS[1:-1])


def test_parameters_of_a_shape_are_a_stack_but_tables_are_alone() -> None:
    assert kinds(OptimizerConfig(), ROWS) == [(EMBEDDING,), NAMES, (HEAD,)]
    assert kinds(OptimizerConfig(), ROWS, 12) == [(EMBEDDING,), NAMES[:2], NAMES[2:], (HEAD,)]
    assert kinds(OptimizerConfig(head_lr=1.0), [*ROWS, Parameter("norm.weight", (2,))])[-1] == ("norm.weight",)


def test_what_is_parted_is_joined_again() -> None:
    stacks = {NAMES: mx.arange(24).reshape(4, 3, 2)}
    alone = {name: stacks[NAMES][at] for at, name in enumerate(NAMES)}
    parts = split(stacks, [NAMES[1:3], (NAMES[0], NAMES[3])], NAMES)  # the latter don't follow each other
    assert list(parts) == [NAMES[:1], NAMES[1:3], NAMES[3:]]
    assert parts[NAMES[1:3]].shape == (2, 3, 2)
    for found in (joined(parts, {NAMES: 3}), stacked(alone, [NAMES])):
        assert mx.array_equal(found[NAMES], stacks[NAMES])
    for name, array in parted(stacks):
        assert mx.array_equal(array, alone[name])
    assert view(stacks, (NAMES[2], NAMES[1])) is None


def test_summands_are_summed() -> None:
    parts = {NAMES[:1]: mx.ones((5, 1, 2)), NAMES[1:]: mx.ones((5, 3, 2))}
    assert mx.array_equal(joined(parts, {NAMES: 2})[NAMES], mx.full((4, 2), 5.0))


def test_matrices_with_one_long_side_are_orthogonalized_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Metal: zeros that fill up the shorter ones stay zeros."""
    monkeypatch.setattr(checkpointing, "on_cpu", lambda: False)
    shapes = [(2, 6, 20), (3, 20, 7), (1, 20, 3), (2, 24, 7)]
    stacks = [mx.random.normal(shape, key=mx.random.key(at)) for at, shape in enumerate(shapes)]
    wanted = [newton_schulz(each) for each in stacks]
    batches: list[tuple[int, ...]] = []
    once = lambda x: (batches.append(x.shape), newton_schulz(x))[1]  # noqa: E731
    monkeypatch.setattr("lost.backends.mlx.optim.muon.newton_schulz", once)
    for found, expected in zip(orthogonalized(stacks), wanted, strict=True):
        assert found.shape == expected.shape
        assert mx.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert batches == [(2, 24, 7), (5, 20, 7), (1, 20, 3)]


@pytest.mark.parametrize("optimizer", ["muon", "spectron"])
def test_a_compiled_update_is_the_plain_one(config: Callable[..., Config], optimizer: str) -> None:
    """And goes on from what is loaded."""
    batch = Batch(np.random.default_rng(0).integers(0, 19, (2, 9)).astype(np.int32))
    ends = []
    for compiled in (False, True):
        settings = config(optimizer={"name": optimizer}, train={"compile": compiled}, model={"num_hidden_layers": 1})
        engine = MlxEngine(settings, "cpu")
        engine.load(initial_values(settings))
        engine.step([batch], batch.predictions, 0.01).wait()
        again = MlxEngine(settings, "cpu")
        again.load(engine.dump())
        again.load_optimizer_state(engine.optimizer_state(), 1)
        again.step([batch, batch], 2 * batch.predictions, 0.01).wait()
        ends.append({**dict(again.dump()), **dict(again.optimizer_state())})
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=2e-4, atol=1e-6, err_msg=name)
