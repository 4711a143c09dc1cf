"""Tokens that aren't learned have no effect: both backends and the numpy reference on windows of examples."""

from collections.abc import Callable

import numpy as np
import pytest

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import BACKENDS, Engine, create_engine
from lost.model import reference
from lost.model.init import initial_values

COUNTED = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]], bool)


@pytest.fixture
def small(config: Callable[..., Config]) -> Config:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return config(
        model={**sizes, "initializer_range": 0.3},
        projection={"rank": 2},
        data={"seq_len": 6},
        train={"grad_clip": 0.0},
    )


def batch() -> Batch:
    return Batch(np.random.default_rng(1).integers(0, 19, (4, 7)).astype(np.int32), COUNTED)


def started(config: Config, backend: str) -> Engine:
    engine = create_engine(config, backend, "cpu")
    engine.load(initial_values(config))
    return engine


def gradients(engine: Engine) -> dict[str, np.ndarray]:
    """As one step leaves them in the first moments."""
    found = {name.removesuffix(".exp_avg"): value for name, value in engine.optimizer_state() if "sq" not in name}
    return {name: np.array(value, np.float64) / 0.1 for name, value in found.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_gradients_are_the_references(small: Config, backend: str) -> None:
    """In micro-batches of one sample, one of which has nothing to learn; the mean is over what counts of all."""
    values = {
        name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in initial_values(small)
    }
    whole = batch()
    expected = reference.loss(small, values, whole.tokens, COUNTED)
    rows = reference.logits(small, values, whole.tokens[:, :-1])
    rows = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    by_hand = [-rows[b, s, whole.tokens[b, s + 1]] for b, s in zip(*np.nonzero(COUNTED), strict=True)]
    assert expected == pytest.approx(np.mean(by_hand), rel=1e-12)
    engine = started(small, backend)
    nll, count = engine.evaluate([whole])
    assert (count, nll / count) == (7, pytest.approx(expected, rel=1e-6))
    parts = [Batch(whole.tokens[row : row + 1], COUNTED[row : row + 1]) for row in range(4)]
    loss, _ = engine.step(parts, 7, 1e-3).wait()
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in reference.gradients(small, values, whole.tokens, COUNTED).items():
        error = np.linalg.norm(gradients(engine)[name] - gradient)
        assert error <= 1e-5 * np.linalg.norm(gradient) + 1e-8, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_targets_there_change_not_one_bit(small: Config, backend: str) -> None:
    """The last token of a row is a target only: where it doesn't count it may be any."""
    states = []
    for last in (3, 11):
        tokens = batch().tokens.copy()
        tokens[:2, -1] = last
        engine = started(small, backend)
        report = engine.step([Batch(tokens, COUNTED)], 7, 1e-3).wait()
        states.append((report, {name: value.tobytes() for name, value in engine.optimizer_state()}))
    assert states[0] == states[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_marks_on_everything_are_no_marks(small: Config, backend: str) -> None:
    tokens, reports = batch().tokens, []
    for mask in (None, np.ones((4, 6), bool)):
        engine = started(small, backend)
        reports.append([engine.step([Batch(tokens, mask)], 24, 1e-2).wait() for _ in range(3)])
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_a_compiled_step_is_compiled_once(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many targets the steps have: MLX would compile anew for each number that it is given."""
    from lost.backends.mlx import engine as module

    traced, own = [], module.head_loss
    engine, eager = started(small.replace("train", compile=True), "mlx"), started(small, "mlx")
    for count in (7, 5, 3):
        mask = COUNTED.copy()
        mask.flat[np.flatnonzero(mask)[count:]] = False
        part = Batch(batch().tokens, mask)
        expected = eager.step([part], count, 1e-2).wait()
        with monkeypatch.context() as patch:
            patch.setattr(module, "head_loss", lambda *arguments: traced.append(1) or own(*arguments))
            assert engine.step([part], count, 1e-2).wait() == pytest.approx(expected, rel=1e-5)
    assert len(traced) == 1
