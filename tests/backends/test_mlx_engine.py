"""The MLX engine: the chunked loss, memory and its estimate, frozen channels, devices, a missing or old package."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_graph import primitives

from lost.backends.mlx import devices
from lost.backends.mlx.distillation.loss import taught_loss
from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import checkpointing, loss
from lost.backends.mlx.kernels.loss import head_loss, head_scores
from lost.backends.mlx.kernels.rows import added, scaled
from lost.config import Config, TeacherConfig
from lost.data.batch import Batch
from lost.errors import BackendError
from lost.model.init import initial_values
from lost.planning.budget import budget


def started(config: Config) -> MlxEngine:
    engine = MlxEngine(config, "cpu")
    engine.load(initial_values(config))
    return engine


def peak_of_a_step(engine: MlxEngine, parts: list[Batch]) -> int:
    """Bytes that a step takes beyond what is held before and after it; the first, which makes the moments, left out."""
    for _ in range(2):
        gc.collect()  # else arrays of an earlier test's engine may go in the midst of the step
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        engine.step(parts, sum(part.predictions for part in parts), 0.01).wait()
    return engine.memory()["memory_bytes"] - before


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("rows", "z_loss"), [(1, 0.0), (130, 0.0), (700, 0.0), (130, 0.3)])
def test_head_loss_against_cross_entropy(
    rows: int, z_loss: float, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "logits_at_once", lambda *place: 300 * 100)
    random = np.random.default_rng(0)
    x = mx.array(random.standard_normal((rows, 24)) * 2, dtype)
    weight = mx.array(random.standard_normal((300, 24)), mx.float32)
    targets, mask = mx.array(random.integers(0, 300, rows)), mx.arange(rows) % 3 != 0

    def ours(x: mx.array, weight: mx.array) -> mx.array:
        return head_loss(x, weight, targets, mask, z_loss) * 0.5

    def theirs(x: mx.array, weight: mx.array) -> mx.array:
        logits = (x @ weight.astype(dtype).T).astype(mx.float32)
        squares = z_loss * mx.logsumexp(logits, axis=-1) ** 2
        return ((nn.losses.cross_entropy(logits, targets) + squares) * mask).sum() * 0.5

    plain = (head_scores(x, weight, targets)[0] * mask).sum().item() * 0.5
    found, found_gradients = mx.value_and_grad(ours, argnums=(0, 1))(x, weight)
    _, wanted_gradients = mx.value_and_grad(theirs, argnums=(0, 1))(x, weight)
    tolerance = 1e-5 if dtype == mx.float32 else 2e-2
    assert found.item() == pytest.approx(plain, rel=1e-5, abs=1e-6)
    for own, other in zip(found_gradients, wanted_gradients, strict=True):
        assert own.dtype == other.dtype
        error = mx.linalg.norm((own - other).astype(mx.float32)) - tolerance * mx.linalg.norm(other.astype(mx.float32))
        assert error.item() <= 0
    logits = (x @ weight.astype(dtype).T).astype(mx.float32)
    assert plain == pytest.approx((nn.losses.cross_entropy(logits, targets) * mask).sum().item() * 0.5, rel=tolerance)


def test_full_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 chunks: some are under way at once, but by far not all."""
    rows, vocab, hidden = 4096, 2048, 32
    monkeypatch.setattr(loss, "logits_at_once", lambda *place: rows * vocab // 16)
    x, weight = mx.random.normal((rows, hidden)), mx.random.normal((vocab, hidden))
    targets, mask = mx.zeros(rows, mx.int32), mx.ones(rows, mx.bool_)
    mx.eval(x, weight, targets, mask)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(lambda *arrays: head_loss(*arrays, targets, mask), argnums=(0, 1))(x, weight))
    assert mx.get_peak_memory() - before < rows * vocab * 4
    mx.clear_cache()
    mx.reset_peak_memory()
    mx.eval(*head_scores(x, weight, targets))
    assert mx.get_peak_memory() - before < rows * vocab * 4 * 0.75


@pytest.mark.parametrize("taught", [False, True])
def test_a_frozen_head_has_no_gradient_of_any_chunk(taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each chunk logits are made, a teacher's too, and the gradient of its states."""
    monkeypatch.setattr(loss, "logits_at_once", lambda *place: 4 * 100 * 300)
    x, teacher, head = (mx.random.normal((rows, 24), key=mx.random.key(rows)) for rows in (500, 500, 300))
    targets, mask, settings = mx.zeros(500, mx.int32), mx.ones(500, mx.bool_), TeacherConfig()
    mx.eval(x, teacher, head, targets, mask)

    def own(x: mx.array) -> mx.array:
        if taught:
            return taught_loss(x, head, targets, mask, (teacher, head), settings, trains_head=False)[0]
        return head_loss(x, head, targets, mask, trains_head=False)

    assert primitives(mx.grad(own)(x))["Matmul"] == (3 * 5 if taught else 2 * 2)


def test_evaluation_does_not_look_for_the_likeliest_entry(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, batch = started(config()), Batch(np.random.default_rng(0).integers(0, 19, (2, 9)).astype(np.int32))
    (scored,) = engine.score([batch])
    monkeypatch.setattr(mx, "argmax", lambda *_, **__: pytest.fail("it does"))
    assert engine.evaluate([batch]) == (pytest.approx(scored[0].sum(dtype=np.float64), rel=1e-7), 16)


def test_accumulation_takes_less_memory_than_the_whole_batch(config: Callable[..., Config]) -> None:
    settings = config(model={"hidden_size": 64, "intermediate_size": 160}, data={"seq_len": 64})
    rows = np.random.default_rng(0).integers(0, 19, (8, 65)).astype(np.int32)
    peaks = []
    for size in (1, 8):
        engine = started(settings)
        parts = [Batch(rows[start : start + size]) for start in range(0, 8, size)]
        peaks.append(peak_of_a_step(engine, parts))
    assert peaks[0] < 0.5 * peaks[1]


def test_a_micro_batch_is_made_ready_while_the_one_before_is_computed(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, events = started(config()), []
    begin, wait = mx.async_eval, mx.eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (events.append("begin"), begin(*arrays))[1])
    monkeypatch.setattr(mx, "eval", lambda *arrays: (events.append("wait"), wait(*arrays))[1])

    def read() -> Iterator[Batch]:
        for _ in range(3):
            events.append("read")
            yield Batch(np.zeros((2, 9), np.int32))

    engine.step(read(), 48, 0.01)
    assert " ".join(events).startswith("read wait begin read wait begin read wait begin wait")


@pytest.mark.parametrize("at", ["low_rank", "inner", "output"])
@pytest.mark.parametrize("kind", ["lost", "cola"])
def test_activations_computed_anew_have_the_same_gradients(
    config: Callable[..., Config], kind: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Metal, and so for the numpy reference too, with which the other form is compared."""
    inner = {"activation_at": at, "learn_gamma": True} if kind == "lost" else {}
    settings = config(projection={"kind": kind, **inner})
    batch = Batch(np.random.default_rng(0).integers(0, 19, (2, 9)).astype(np.int32))
    ends = []
    for on_cpu in (True, False):
        monkeypatch.setattr(checkpointing, "on_cpu", lambda here=on_cpu: here)
        engine = started(settings)
        engine.step([batch], batch.predictions, 0.01)
        ends.append(dict(engine.optimizer_state()))
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=1e-4, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("kind", ["lost", pytest.param("dense", marks=pytest.mark.slow)])
def test_checkpointed_activations_take_less_memory(config: Callable[..., Config], kind: str) -> None:
    settings = config(
        model={"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6},
        projection={"kind": kind, "rank": 16},
        data={"seq_len": 64},
        train={"batch_size": 8, "micro_batch_size": 8},
    )
    parts = [Batch(np.random.default_rng(0).integers(0, 19, (8, 65)).astype(np.int32))]
    peaks = {
        policy: peak_of_a_step(started(settings.replace("train", checkpoint_activations=policy)), parts)
        for policy in ("none", "narrow", "full")
    }
    assert peaks["narrow"] < 0.75 * peaks["none"]
    assert peaks["full"] < 0.6 * peaks["none"]


KEPT = ("none", "narrow", "full")
SOME = [("lost", 8, 0, kept) for kept in KEPT] + [("lost", 8, 3, "none"), ("lost", 2, 0, "none")]
SOME += [("dense", 8, 0, "full"), ("lowrank", 8, 0, "none"), ("cola", 8, 0, "narrow")]
SIZES = (("lost", 2, 0), ("lost", 8, 3), ("dense", 8, 0), ("lowrank", 8, 0), ("cola", 8, 0))
ALL = [(*case, kept) for case in SIZES for kept in KEPT]


@pytest.mark.parametrize(
    ("kind", "micro_batch", "conv", "checkpointed"),
    [*SOME, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in SOME)],
)
def test_plan_estimates_the_peak(
    config: Callable[..., Config], kind: str, micro_batch: int, conv: int, checkpointed: str
) -> None:
    """On a CPU, uncompiled. How far MLX runs ahead of what it frees varies from time to time."""
    settings = config(
        model={"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "vocab_size": 2048,
               "max_position_embeddings": 256},
        projection={"kind": kind, "rank": 32, "short_conv_width": conv},
        data={"seq_len": 128},
        train={"batch_size": 8, "micro_batch_size": micro_batch, "checkpoint_activations": checkpointed},
    )  # fmt: skip
    engine = started(settings)
    rows = np.random.default_rng(0).integers(0, 2048, (8, 129)).astype(np.int32)
    parts = [Batch(rows[start : start + micro_batch]) for start in range(0, 8, micro_batch)]
    memory = budget(settings, "mlx").memory
    assert peak_of_a_step(engine, parts) == pytest.approx(memory.gradients + memory.activations, rel=0.3)


@pytest.mark.parametrize("compiled", [False, True])
def test_plan_estimates_the_peak_where_weights_are_most_of_it(config: Callable[..., Config], compiled: bool) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 2048}
    settings = config(model=sizes, projection={"kind": "dense"}, train={"compile": compiled, "micro_batch_size": 4})
    batch = Batch(np.random.default_rng(0).integers(0, 2048, (4, 9)).astype(np.int32))
    memory = budget(settings, "mlx").memory
    assert peak_of_a_step(started(settings), [batch]) == pytest.approx(memory.gradients + memory.activations, rel=0.3)


def test_memory_has_three_figures_and_a_bounded_cache(config: Callable[..., Config]) -> None:
    settings = config(train={"batch_size": 64, "micro_batch_size": 64})
    engine = started(settings)
    batch = Batch(np.random.default_rng(0).integers(0, 19, (64, 9)).astype(np.int32))
    for _ in range(3):
        engine.step([batch], batch.predictions, 0.01).wait()
    memory = engine.memory()
    assert memory.keys() == {"memory_bytes", "memory_active_bytes", "memory_cache_bytes"}
    assert memory["memory_bytes"] > memory["memory_active_bytes"] > 0
    limit = budget(settings, "mlx").memory
    assert 0 < memory["memory_cache_bytes"] <= limit.activations + limit.gradients


def test_another_engine_leaves_the_peak_and_the_cache_until_it_is_loaded(config: Callable[..., Config]) -> None:
    engine = started(config(train={"batch_size": 64, "micro_batch_size": 64}))
    batch = Batch(np.random.default_rng(0).integers(0, 19, (64, 9)).astype(np.int32))
    engine.step([batch], batch.predictions, 0.01).wait()
    peak, limit = engine.memory()["memory_bytes"], mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    other = MlxEngine(config(), "cpu")
    assert (engine.memory()["memory_bytes"] >= peak, mx.set_cache_limit(limit)) == (True, limit)
    other.load(initial_values(config()))
    assert other.memory()["memory_bytes"] < peak
    assert mx.set_cache_limit(limit) < limit


@pytest.mark.parametrize(("kind", "suffix"), [("lost", ".channels"), ("sltrain", ".indices")])
def test_places_are_kept_but_never_trained(config: Callable[..., Config], kind: str, suffix: str) -> None:
    model = started(config(projection={"kind": kind})).model
    names, trained = (dict(tree_flatten(each)) for each in (model.parameters(), model.trainable_parameters()))
    places = {name for name in names if name.endswith(suffix)}
    assert len(places) == 14
    assert names.keys() - trained.keys() == places


def test_devices_that_are_not_here(config: Callable[..., Config]) -> None:
    with pytest.raises(BackendError, match="MLX devices are auto, cpu and gpu"):
        devices.resolve("cuda")
    if "gpu" not in devices.available():
        with pytest.raises(BackendError, match=r"--device gpu: .* sees no such device here; available: cpu"):
            devices.resolve("gpu")
    if not mx.metal.is_available():
        with pytest.raises(BackendError, match="only Metal can wire memory"):
            devices.wire(1 << 30, "gpu")


def test_a_cpu_on_a_mac_wires_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    with pytest.raises(BackendError, match="it isn't what computes here"):
        devices.wire(1 << 30, "cpu")


def test_memory_of_other_makers_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's say it under another name."""
    for told, size in (({"max_recommended_working_set_size": 7, "total_memory": 9}, 7), ({"total_memory": 9}, 9)):
        monkeypatch.setattr(mx, "device_info", lambda device, told=told: told)
        assert devices.capacity("gpu") == size


@pytest.mark.parametrize(
    ("hosts", "share"),
    [
        ('[["127.0.0.1:5000"], ["127.0.0.1:5001"]]', 2),
        ('[["10.0.0.1:5000", "10.1.0.1:5001"], ["10.0.0.2:5000"], ["10.1.0.1:5002"], ["10.0.0.3:5000"]]', 2),
        ('[["10.0.0.1:5000"], ["10.0.0.2:5000"]]', 1),
        ("", 1),
        ("[]", 1),
        ("{}", 1),
        (None, 1),
    ],
)
def test_workers_on_one_machine_share_its_memory(
    hosts: str | None, share: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = devices.capacity("cpu")
    monkeypatch.setenv("MLX_RANK", "0")
    if hosts is not None:
        (tmp_path / "hosts").write_text(hosts)
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    assert devices.capacity("cpu") == whole // share


@pytest.mark.parametrize(("apply", "of_x"), [(added, lambda x, row: 1), (scaled, lambda x, row: row)])
def test_gradients_of_rows_are_summed_in_float32(apply: Callable, of_x: Callable) -> None:
    """Where all else is in bfloat16, whose sums of thousands of numbers are worth little."""
    x = mx.random.normal((3, 5, 8)).astype(mx.bfloat16)
    row, outer = mx.random.normal((8,)), mx.random.normal((3, 5, 8)).astype(mx.bfloat16)
    (y,), (for_x, for_row) = mx.vjp(apply, [x, row], [outer])
    wide = x.astype(mx.float32)
    expected = (outer.astype(mx.float32) * (wide if apply is scaled else 1)).reshape(-1, 8).sum(0)
    assert (y.dtype, for_x.dtype, for_row.dtype) == (mx.bfloat16, mx.bfloat16, mx.float32)
    np.testing.assert_allclose(np.array(for_row), np.array(expected), rtol=1e-6)
    np.testing.assert_allclose(
        np.array(for_x.astype(mx.float32)), np.array(outer.astype(mx.float32) * of_x(x, row)), rtol=2e-2
    )


@pytest.mark.parametrize("kind", ["lost", "dense"])
def test_an_update_of_muon_is_planned(config: Callable[..., Config], kind: str) -> None:
    """Where it is what takes most: little text, many matrices."""
    settings = config(
        model={"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6},
        projection={"kind": kind, "rank": 48},
        optimizer={"name": "muon"},
        train={"batch_size": 1, "micro_batch_size": 1},
    )
    engine, planned = started(settings), budget(settings, "mlx", "cpu").memory
    batch = Batch(np.zeros((1, 17), np.int32))
    peak = peak_of_a_step(engine, [batch])
    assert 0.75 < peak / (planned.activations + planned.gradients) < 1.15
