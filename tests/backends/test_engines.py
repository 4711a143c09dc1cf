"""Tests that every engine must pass: accumulation, precision, saving and loading of state, generation."""

import gc
import weakref
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from device import device_of

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import BACKENDS, Engine, create_engine
from lost.errors import CheckpointError
from lost.model.init import initial_values
from lost.model.parameters import parameter_table
from lost.projections import KINDS

Start = Callable[[Config], Engine]


@pytest.fixture(params=BACKENDS)
def started(request: pytest.FixtureRequest) -> Start:
    def start(config: Config) -> Engine:
        engine = create_engine(config, request.param, device_of(request.param))
        engine.load(initial_values(config))
        return engine

    return start


def batches(count: int, size: int, length: int = 8, vocab: int = 19) -> list[Batch]:
    random = np.random.default_rng(3)
    return [Batch(random.integers(0, vocab, (size, length + 1)).astype(np.int32)) for _ in range(count)]


def values(engine: Engine) -> dict[str, np.ndarray]:
    return {name: np.array(value, copy=True) for name, value in engine.dump()}


def test_initial_values_go_in_and_out(config: Callable[..., Config], started: Start) -> None:
    engine, expected = started(config()), dict(initial_values(config()))
    assert list(values(engine)) == list(parameter_table(config()))
    for name, value in values(engine).items():
        assert value.dtype == expected[name].dtype
        assert value.tobytes() == expected[name].tobytes(), name
    assert list(engine.optimizer_state()) == []  # before the first step


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("checkpointed", ["none", "narrow", "full"])
def test_accumulation_equals_the_whole_batch(
    config: Callable[..., Config], started: Start, clip: float, checkpointed: str
) -> None:
    settings = config(train={"grad_clip": clip, "checkpoint_activations": checkpointed})
    rows = batches(1, 8)[0].tokens
    reports, ends, moved = [], [], []
    for size in (1, 8):
        engine = started(settings)
        parts = [Batch(rows[start : start + size]) for start in range(0, 8, size)]
        reports.append(engine.step(parts, rows[:, 1:].size, 0.01).wait())
        ends.append({name: np.array(value) for name, value in engine.optimizer_state()})
        moved.append(values(engine))
    np.testing.assert_allclose(reports[0], reports[1], rtol=1e-6)
    for name, moment in ends[0].items():
        np.testing.assert_allclose(moment, ends[1][name], atol=1e-7, err_msg=name)
    for name, value in moved[0].items():
        np.testing.assert_allclose(value, moved[1][name], atol=1e-6, err_msg=name)


def test_predictions_that_are_not_counted_do_not_teach(config: Callable[..., Config], started: Start) -> None:
    rows = batches(1, 2)[0].tokens
    mask = np.zeros((2, 8), bool)
    mask[:, :5] = True
    short = started(config()), started(config())
    for engine, batch in zip(short, (Batch(rows, mask), Batch(rows[:, :6])), strict=True):
        assert batch.predictions == 10
        assert engine.evaluate([batch])[1] == 10
        engine.step([batch], 10, 0.01)
    assert short[0].evaluate([Batch(rows, mask)])[0] == pytest.approx(short[1].evaluate([Batch(rows[:, :6])])[0])
    for (name, first), (_, second) in zip(short[0].optimizer_state(), short[1].optimizer_state(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("projection", [*({"kind": kind} for kind in KINDS), {"kind": "lost", "learn_gamma": True}])
@pytest.mark.parametrize("policy", ["narrow", "full"])
def test_checkpointed_activations_change_nothing(
    config: Callable[..., Config], started: Start, policy: str, projection: dict
) -> None:
    batch = batches(1, 4)[0]
    losses, gradients = [], []
    for name in ("none", policy):
        engine = started(config(projection=projection, train={"checkpoint_activations": name, "grad_clip": 0.0}))
        losses.append([engine.step([batch], batch.predictions, 0.01).wait()])
        gradients.append({name: value.copy() for name, value in engine.optimizer_state() if name.endswith("exp_avg")})
        losses[-1] += [engine.step([batch], batch.predictions, 0.01).wait() for _ in range(2)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    for name, expected in gradients[0].items():
        allowed = 1e-6 * np.linalg.norm(expected) + 1e-10  # a gamma's gradient is one sum, and may cancel
        assert np.linalg.norm(gradients[1][name] - expected) <= allowed, name


def test_mixed_and_pure_bfloat16(config: Callable[..., Config], started: Start) -> None:
    full = started(config())
    for params in ("float32", "bfloat16"):
        settings = config(train={"dtype": "bfloat16", "param_dtype": params})
        engine = started(settings)
        for batch in batches(5, 4):
            loss = engine.step([batch], batch.predictions, 0.01).wait()[0]
            wanted = full.step([batch], batch.predictions, 0.01).wait()[0] if params == "float32" else loss
            assert loss == pytest.approx(wanted, rel=0.03)
        kinds = {value.dtype for name, value in engine.dump() if "channels" not in name}
        assert kinds == {np.dtype(np.float32 if params == "float32" else ml_dtypes.bfloat16)}
        assert {value.dtype for _, value in engine.optimizer_state()} == kinds


def test_small_updates_survive_only_in_float32(config: Callable[..., Config], started: Start) -> None:
    """Why weights are kept in float32: near 1, bfloat16 can't tell 1 from 1.0001."""
    for params, moved in (("float32", True), ("bfloat16", False)):
        engine = started(config(train={"dtype": "bfloat16", "param_dtype": params}))
        for batch in batches(5, 4):
            engine.step([batch], batch.predictions, 1e-4)
        assert bool((values(engine)["model.norm.weight"].astype(np.float32) != 1).any()) is moved


def test_decay_acts_in_pure_bfloat16(config: Callable[..., Config], started: Start) -> None:
    """Where 1 - lr * decay is 1: the update is computed in float32 and rounded once."""
    norms = []
    for decay in (0.0, 0.1):
        settings = config(
            train={"dtype": "bfloat16", "param_dtype": "bfloat16"},
            optimizer={"weight_decay": decay},
            model={"initializer_range": 1.0},
        )
        engine = started(settings)
        for batch in batches(5, 4):
            engine.step([batch], batch.predictions, 1e-2)
        norms.append(np.linalg.norm(values(engine)["model.embed_tokens.weight"].astype(np.float64)))
    assert norms[1] < norms[0]


def test_gradient_norm_of_large_arrays(config: Callable[..., Config], started: Start) -> None:
    """Against float64: a careless float32 sum over an embedding is off by a tenth of a per cent, and so is clipping."""
    sizes = {"hidden_size": 128, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 16384}
    engine = started(config(model={**sizes, "tie_word_embeddings": True}, train={"grad_clip": 0.0}))
    batch = batches(1, 8, vocab=16384)[0]
    norm = engine.step([batch], batch.predictions, 0.01).wait()[1]
    moments = [value.astype(np.float64) for name, value in engine.optimizer_state() if name.endswith(".exp_avg")]
    assert norm == pytest.approx(sum((moment**2).sum() for moment in moments) ** 0.5 / 0.1, rel=1e-5)


def test_gradient_norm_in_pure_bfloat16(config: Callable[..., Config], started: Start) -> None:
    settings = config(
        train={"dtype": "bfloat16", "param_dtype": "bfloat16", "grad_clip": 0.0}, model={"num_hidden_layers": 4}
    )
    engine, batch = started(settings), batches(1, 4)[0]
    norm = engine.step([batch], batch.predictions, 0.01).wait()[1]
    moments = [value.astype(np.float64) for name, value in engine.optimizer_state() if name.endswith(".exp_avg")]
    assert norm == pytest.approx(sum((moment**2).sum() for moment in moments) ** 0.5 / 0.1, rel=5e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_goes_out_and_in_bit_for_bit(config: Callable[..., Config], started: Start, dtype: str) -> None:
    settings = config(train={"dtype": dtype, "param_dtype": dtype})
    engine, data = started(settings), batches(6, 4)
    for batch in data[:3]:
        engine.step([batch], batch.predictions, 0.01)
    other = started(settings)
    other.load(engine.dump())
    other.load_optimizer_state(engine.optimizer_state(), 3)
    for batch in data[3:]:
        first, second = (each.step([batch], batch.predictions, 0.01).wait() for each in (engine, other))
        assert first == second
    for name, value in values(engine).items():
        assert value.tobytes() == values(other)[name].tobytes(), name


def test_arrays_that_do_not_fit_are_refused(config: Callable[..., Config], started: Start) -> None:
    engine, good = started(config()), dict(initial_values(config()))
    for changed, named in (
        ({"model.norm.weight": np.ones(3, np.float32)}, "model.norm.weight has shape"),
        ({"stranger": np.ones(3, np.float32)}, "stranger has shape"),
        ({"model.norm.weight": None}, "1 arrays are missing, model.norm.weight"),
    ):
        arrays = {**good, **changed}
        with pytest.raises(CheckpointError, match=named):
            engine.load((name, array) for name, array in arrays.items() if array is not None)


@pytest.mark.parametrize("kind", ["lost", "dense"])
def test_generation_with_a_cache_equals_reading_anew(
    config: Callable[..., Config], started: Start, logits: Callable, kind: str
) -> None:
    engine = started(config(projection={"kind": kind}, model={"initializer_range": 1.0}))
    prompt = [3, 1, 4, 1, 5]
    given: list[np.ndarray] = []
    fast = list(engine.generate(prompt, lambda scores: given.append(scores) or int(scores.argmax()), 20))
    slow = list(prompt)
    for number in range(20):
        expected = logits(engine, np.array([slow]))[0, -1]
        np.testing.assert_allclose(given[number], expected, atol=1e-3)  # logits, not log-probabilities
        slow.append(int(expected.argmax()))
    assert fast == slow[5:]
    assert len(set(fast)) > 3


def test_compiled_step_equals_eager(config: Callable[..., Config], started: Start) -> None:
    small = {"num_hidden_layers": 1}
    eager, compiled = started(config(model=small)), started(config(model=small, train={"compile": True}))
    assert (eager.compiled, compiled.compiled) == (False, True)  # type: ignore[attr-defined]
    for batch in batches(2, 4):
        halves = [Batch(batch.tokens[:2]), Batch(batch.tokens[2:])]
        first, second = (each.step(halves, batch.predictions, 0.01).wait() for each in (eager, compiled))
        np.testing.assert_allclose(first, second, rtol=1e-5)
    for name, value in values(eager).items():
        np.testing.assert_allclose(value, values(compiled)[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("backend", "compiled"), [("torch", False), ("mlx", False), ("mlx", True)])
def test_an_engine_that_is_dropped_frees_its_model_at_once(
    config: Callable[..., Config], backend: str, compiled: bool
) -> None:
    """Without the collector of cycles, which may come much later. Blocks that PyTorch compiled refer to themselves."""
    settings = config(train={"compile": compiled})
    gc.collect()
    gc.disable()
    try:
        engine = create_engine(settings, backend, device_of(backend))
        engine.load(initial_values(settings))
        engine.step(batches(2, 2), 32, 0.01).wait()
        held = weakref.ref(engine.model)  # type: ignore[attr-defined]
        del engine
        assert held() is None
    finally:
        gc.enable()
