"""The torch engine: an optimizer step against plain torch, accumulation, precision, generation, counting."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device import TORCH
from torch.utils._python_dispatch import TorchDispatchMode

from lost.backends.torch.distributed.sharded import Sharded
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.kernels.elementwise import rotate
from lost.backends.torch.kernels.loss import IGNORED, head_loss, head_scores
from lost.config import Config
from lost.data.batch import Batch
from lost.engine import create_engine
from lost.engine.selftest import kinds_tested
from lost.errors import BackendError
from lost.model.init import initial_values
from lost.model.load import load_config
from lost.model.parameters import parameter_table, projections
from lost.optim import state_shapes
from lost.optim.adamw8bit import SCALE
from lost.planning.budget import budget
from lost.projections.adapters import Adapter


def batches(count: int, size: int, length: int = 8, vocab: int = 19) -> list[Batch]:
    random = np.random.default_rng(3)
    return [Batch(random.integers(0, vocab, (size, length + 1)).astype(np.int32)) for _ in range(count)]


def started(config: Config, device: str = TORCH) -> TorchEngine:
    engine = TorchEngine(config, device)
    engine.load(initial_values(config))
    return engine


def values(engine: TorchEngine) -> dict[str, np.ndarray]:
    return {name: np.array(value, copy=True) for name, value in engine.dump()}


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_steps_against_plain_torch(config: Callable[..., Config], clip: float) -> None:
    """Three steps of AdamW written out: the mean loss, the clipped norm, decay on matrices only."""
    settings = config(train={"grad_clip": clip})
    engine, twin = started(settings), started(settings)
    lrs = [0.01, 0.02, 0.005]
    moments = dict.fromkeys(dict(twin.model.named_parameters()), (0.0, 0.0))
    for number, (batch, lr) in enumerate(zip(batches(3, 4), lrs, strict=True), 1):
        loss, norm = engine.step([batch], batch.predictions, lr).wait()

        tokens = torch.from_numpy(batch.tokens.astype(np.int64)).to(TORCH)
        wanted = F.cross_entropy(twin.model.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        twin.model.zero_grad()
        wanted.backward()
        assert loss == pytest.approx(wanted.item(), rel=1e-5)
        gradients = {name: tensor.grad for name, tensor in twin.model.named_parameters()}
        total = float(sum((g**2).sum() for g in gradients.values())) ** 0.5
        assert norm == pytest.approx(total, rel=1e-4)
        scale = min(1.0, clip / total) if clip else 1.0
        with torch.no_grad():
            for name, tensor in twin.model.named_parameters():
                gradient = gradients[name] * scale
                first = 0.9 * moments[name][0] + 0.1 * gradient
                second = 0.95 * moments[name][1] + 0.05 * gradient**2
                moments[name] = (first, second)
                if tensor.ndim > 1:
                    tensor.mul_(1 - lr * 0.1)
                tensor.sub_(lr * (first / (1 - 0.9**number)) / ((second / (1 - 0.95**number)).sqrt() + 1e-8))
    for name, tensor in twin.model.named_parameters():
        np.testing.assert_allclose(values(engine)[name], tensor.detach().cpu().numpy(), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "z_loss"), [(1, 0.0), (130, 0.0), (700, 0.0), (130, 0.3)])
@pytest.mark.parametrize("fused", [False, True])
def test_head_loss_against_cross_entropy(
    rows: int, z_loss: float, fused: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused: as it is traced for PyTorch's compiler, which generates no code here."""
    torch.manual_seed(0)
    x = (torch.randn(rows, 24, device=TORCH) * 2).to(dtype).requires_grad_()
    weight = torch.randn(300, 24, device=TORCH).requires_grad_()
    targets = torch.randint(0, 300, (rows,), device=TORCH)
    targets[::3] = IGNORED
    monkeypatch.setattr("lost.backends.torch.kernels.loss.logits_at_once", lambda *place: 300 * 100)
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        loss = head_loss(x, weight, targets, z_loss, fused)
    (loss * 0.5).backward()
    found = loss.item(), x.grad, weight.grad
    x.grad = weight.grad = None
    logits = F.linear(x, weight.to(dtype)).float()
    wanted = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    squares = (torch.logsumexp(logits, 1) ** 2 * (targets != IGNORED)).sum()
    ((wanted + z_loss * squares) * 0.5).backward()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert found[0] == pytest.approx(wanted.item(), rel=tolerance)
    for own, theirs in ((found[1], x.grad), (found[2], weight.grad)):
        assert (own - theirs).float().norm() <= tolerance * theirs.float().norm()
    torch.testing.assert_close(head_scores(x, weight, targets)[0].sum().item(), found[0], rtol=1e-5, atol=1e-6)


def test_full_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.backends.torch.kernels.loss.logits_at_once", lambda *place: 64 * 50)
    widest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal widest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 50:
                widest = max(widest, result.shape[0])
            return result

    x, weight = torch.randn(1000, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    with Watch():
        head_loss(x, weight, torch.zeros(1000, dtype=torch.long)).backward()
    assert 0 < widest <= 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rotation_is_its_formula(dtype: torch.dtype) -> None:
    """Which is what is compiled. Values and gradients."""
    x = torch.randn(2, 5, 3, 8, dtype=dtype, requires_grad=True)
    angles = torch.randn(5, 4, dtype=torch.float64)
    tables = angles.cos().to(dtype), angles.sin().to(dtype)
    outer, found = torch.randn_like(x), []
    for compiling in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: compiling)  # noqa: B023
            y = rotate(x, *tables)
        found.append((y, torch.autograd.grad(y, x, outer)[0]))
    tolerance = 1e-12 if dtype is torch.float64 else 2e-2
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


def test_positions_take_memory_as_they_are_used(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's model may allow more than a memory holds. What is computed is the same, to the bit."""
    whole = started(config())
    monkeypatch.setattr("lost.backends.torch.model._POSITIONS", 4)
    engine = started(config(data={"seq_len": 4}, model={"max_position_embeddings": 1 << 50}))
    assert len(engine.model.model.cos) == 4
    engine.step(batches(1, 2, length=4), 8, 0.0).wait()
    for length in (4, 5, 30):
        texts = batches(1, 2, length)
        for one, other in zip(engine.score(texts), whole.score(texts), strict=True):
            np.testing.assert_array_equal(one[0], other[0])
        assert len(engine.model.model.cos) == {4: 4, 5: 10, 30: 60}[length]


def test_evaluation_waits_once_all_is_computed(config: Callable[..., Config]) -> None:
    """And doesn't look for the likeliest entry."""
    engine, done = started(config()), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            done.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    parts = batches(3, 2)
    with Watch():
        nll, count = engine.evaluate(parts)
    assert done.count("_local_scalar_dense") == 3
    assert set(done[-3:]) == {"_local_scalar_dense"}
    assert "argmax" not in done
    scored = [values.sum(dtype=np.float64) for values, _ in engine.score(parts)]
    assert (nll, count) == (pytest.approx(sum(scored), rel=1e-7), 48)


def test_squares_as_a_card_adds_them(config: Callable[..., Config]) -> None:
    """All tensors at once, in float64; gradients in bfloat16 too."""
    engine = started(config(), "cpu")
    gradients = [torch.randn(70, 90), torch.randn(33).bfloat16(), torch.randn(())]
    wanted = sum(each.double().square().sum() for each in gradients)
    for engine._device in (torch.device("cpu"), torch.device("cuda")):
        torch.testing.assert_close(engine._squares(gradients), wanted, rtol=3e-3, atol=0)
    torch.testing.assert_close(engine._squares(gradients), wanted)


def test_what_is_dumped_is_a_view_where_the_engine_says_so(config: Callable[..., Config]) -> None:
    engine = started(config(), TORCH)
    for (_, first), (_, second) in zip(engine.dump(), engine.dump(), strict=True):
        assert np.shares_memory(first, second) == engine.yields_views


def test_devices_that_are_not_here() -> None:
    config = load_config("llama_60m")
    with pytest.raises(BackendError, match="PyTorch devices are auto, cpu, cuda, cuda:N and mps"):
        create_engine(config, "torch", "tpu")
    with pytest.raises(BackendError, match="no such backend"):
        create_engine(config, "jax")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match=r"--device cuda: .* sees no such device here; available: .*cpu"):
            create_engine(config, "torch", "cuda")


@pytest.mark.parametrize("kind", ["lost", "dense"])
@pytest.mark.parametrize("name", ["llama_60m", "llama_130m", "llama_350m"])
def test_plan_counts_what_is_allocated(name: str, kind: str) -> None:
    config = load_config(name, [f"projection.kind={kind}", "train.dtype=float32"])
    engine = TorchEngine(config, "cpu")
    counted, tensors = budget(config), dict(engine.model.named_parameters())
    integers = {n: b for n, b in engine.model.named_buffers() if n in parameter_table(config)}
    assert counted.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert counted.embeddings == sum(t.numel() for n, t in tensors.items() if "embed_tokens" in n or "lm_head" in n)
    assert counted.projections == sum(t.numel() for n, t in tensors.items() if "_proj." in n)
    assert counted.memory.weights == sum(t.nbytes for t in (*tensors.values(), *integers.values()))
    assert {n: tuple(t.shape) for n, t in (tensors | integers).items()} == {
        n: row.shape for n, row in parameter_table(config).items()
    }


@pytest.mark.parametrize("kind", kinds_tested())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("policy", "heads", "conv", "activation"),
    [
        ("none", 2, 0, "silu"),
        ("none", 4, 3, "silu"),
        ("none", 4, 3, "none"),
        ("narrow", 2, 0, "silu"),
        ("narrow", 2, 3, "none"),
        ("full", 4, 3, "silu"),
    ],
)
def test_plan_estimates_what_autograd_saves(
    config: Callable[..., Config], kind: str, dtype: str, policy: str, heads: int, conv: int, activation: str
) -> None:
    """All that stands between the passes; of what is rebuilt in the second, the estimate says more, and isn't held."""
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_key_value_heads": heads}
    settings = config(
        projection={"kind": kind, "rank": 16, "short_conv_width": conv, "activation": activation},
        model=sizes,
        train={"dtype": dtype, "checkpoint_activations": policy},
        data={"seq_len": 64},
    )
    held = held_after_forward(started(settings, "cpu"))
    width, cast = (4, 0) if dtype == "float32" else (2, 2)
    # The loss's: logits, inputs' gradients and a scaled copy; the head's gradient, and a product that is added to it.
    loss = (4 + cast) * 128 * 19 + 2 * width * 128 * 64 + (4 + cast) * 19 * 64
    estimate = budget(settings).memory.activations - loss
    if policy == "none":  # before the first adapter nothing is kept
        assert held == pytest.approx(estimate, rel=0.05 if isinstance(projections(settings)[0], Adapter) else 0.03)
    else:
        deeper = budget(settings.replace("model", num_hidden_layers=4)).memory.activations - loss
        assert held < estimate
        last_norm = 128 * (2 * 64 * width + 4)
        assert held == pytest.approx(3 * (deeper - estimate) + last_norm, rel=0.08)


def held_after_forward(engine: TorchEngine) -> int:
    """Bytes that stay allocated between the passes: what autograd saves, and what checkpoints hold outside of it."""
    tokens = torch.zeros(2, 64, dtype=torch.long)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        states = engine.model.model(tokens)
    assert states.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_checkpointed_activations_are_not_saved(config: Callable[..., Config]) -> None:
    """What autograd keeps between the passes: the narrow halves, or little more than each block's input."""
    held = []
    for policy in ("none", "narrow", "full"):
        settings = config(
            model={"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4},
            train={"checkpoint_activations": policy},
            data={"seq_len": 64},
        )
        held.append(held_after_forward(started(settings, "cpu")))
    assert held[1] < 0.4 * held[0]
    assert held[2] < 0.5 * held[1]


def test_eight_bit_moments(config: Callable[..., Config]) -> None:
    """They take a quarter of the memory, train nearly as AdamW does, and go out and in again to the bit."""
    model = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256}
    eight, plain = (
        config(model=model, projection={"rank": 16, "density": 0.1}, optimizer={"name": name, "lr": 1e-3})
        for name in ("adamw8bit", "adamw")
    )
    random = np.random.default_rng(0)
    batches = [Batch(random.integers(0, 256, (4, 9)).astype(np.int32)) for _ in range(6)]
    engine, twin = started(eight), started(plain)
    losses = [(engine.step([b], 32, 1e-3).wait()[0], twin.step([b], 32, 1e-3).wait()[0]) for b in batches[:3]]
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-3)
    moments = {name: np.array(value) for name, value in engine.optimizer_state()}
    assert {name: value.shape for name, value in moments.items()} == state_shapes(eight)
    assert any(name.endswith(SCALE) for name in moments)
    kept = [state["exp_avg"] for state in engine._optimizer._optimizer.state.values()]
    assert {moment.codes.dtype for moment in kept if hasattr(moment, "codes")} == {torch.uint8}
    again = started(eight)
    again.load((name, np.array(value)) for name, value in engine.dump())
    again.load_optimizer_state(reversed(list(moments.items())), 3)
    for batch in batches[3:]:
        assert engine.step([batch], 32, 1e-3).wait() == again.step([batch], 32, 1e-3).wait()


def test_eight_bit_moments_before_the_first_update(config: Callable[..., Config]) -> None:
    """A run that left out all updates so far is saved with moments, and goes on as one that never stopped."""
    model = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256}
    settings = config(model=model, projection={"rank": 16, "density": 0.1}, optimizer={"name": "adamw8bit"})
    engine, again = started(settings), started(settings)
    engine._optimizer.step(1e-3, torch.tensor(True))
    moments = {name: np.array(value) for name, value in engine.optimizer_state()}
    assert {name: value.shape for name, value in moments.items()} == state_shapes(settings)
    again.load_optimizer_state(moments.items(), 0)
    assert all(np.array_equal(value, moments[name]) for name, value in again.optimizer_state())
    batch = Batch(np.random.default_rng(0).integers(0, 256, (4, 9)).astype(np.int32))
    for _ in range(2):
        assert engine.step([batch], 32, 1e-3).wait() == again.step([batch], 32, 1e-3).wait()


def test_the_peak_is_of_what_was_loaded(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of those that were measured before it to choose a type."""
    forgotten: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    engine = TorchEngine(config(), "cpu")
    engine.device = "cuda:0"
    engine.load(initial_values(config()))
    assert forgotten == ["cuda:0"]


def test_an_array_of_one_group_is_whole() -> None:
    """Scales of moments have no rows of their own."""
    layout = object.__new__(Sharded)
    layout._ends = {"down": (0, 2)}
    for layout.shards, held in ((1, 6), (2, 2)):
        assert len(layout.local_rows("down", np.zeros(6))) == held
