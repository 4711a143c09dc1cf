"""The torch engine: an optimizer step against plain torch, accumulation, precision, generation, counting."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.loss import IGNORED, head_loss, head_nll
from lost.batches import Batch
from lost.budget import budget
from lost.config import Config
from lost.configfile import load_config
from lost.engine import create_engine
from lost.errors import BackendError, CheckpointError
from lost.initial import initial_values
from lost.parameters import parameter_table


def batches(count: int, size: int, length: int = 8, vocab: int = 19) -> list[Batch]:
    random = np.random.default_rng(3)
    return [Batch(random.integers(0, vocab, (size, length + 1)).astype(np.int32)) for _ in range(count)]


def started(config: Config) -> TorchEngine:
    engine = TorchEngine(config, "cpu")
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
        loss, norm = engine.step([batch], batch.predictions, lr).read()

        tokens = torch.from_numpy(batch.tokens.astype(np.int64))
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
        np.testing.assert_allclose(values(engine)[name], tensor.detach().numpy(), atol=2e-5, err_msg=name)


def test_accumulation_equals_the_whole_batch(config: Callable[..., Config]) -> None:
    settings = config()
    rows = batches(1, 8)[0].tokens
    reports, ends = [], []
    for size in (1, 8):
        engine = started(settings)
        parts = [Batch(rows[start : start + size]) for start in range(0, 8, size)]
        reports.append(engine.step(parts, rows[:, 1:].size, 0.01).read())
        ends.append(dict(engine.optimizer_state()))
    np.testing.assert_allclose(reports[0], reports[1], rtol=1e-6)
    for name, moment in ends[0].items():
        np.testing.assert_allclose(moment, ends[1][name], atol=1e-7, err_msg=name)


def test_predictions_that_are_not_counted_do_not_teach(config: Callable[..., Config]) -> None:
    rows = batches(1, 2)[0].tokens
    counted = np.zeros((2, 8), bool)
    counted[:, :5] = True
    short = started(config()), started(config())
    for engine, batch in zip(short, (Batch(rows, counted), Batch(rows[:, :6])), strict=True):
        assert batch.predictions == 10
        engine.step([batch], 10, 0.01)
    for (name, first), (_, second) in zip(short[0].optimizer_state(), short[1].optimizer_state(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 130, 700])
def test_head_loss_against_cross_entropy(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = (torch.randn(rows, 24) * 2).to(dtype).requires_grad_()
    weight = torch.randn(300, 24).requires_grad_()
    targets = torch.randint(0, 300, (rows,))
    targets[::3] = IGNORED
    monkeypatch.setattr("lost.backends.torch.loss.logits_at_once", lambda *place: 300 * 100)
    loss = head_loss(x, weight, targets)
    (loss * 0.5).backward()
    found = loss.item(), x.grad, weight.grad
    x.grad = weight.grad = None
    wanted = F.cross_entropy(F.linear(x, weight.to(dtype)).float(), targets, reduction="sum", ignore_index=IGNORED)
    (wanted * 0.5).backward()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert found[0] == pytest.approx(wanted.item(), rel=tolerance)
    for own, theirs in ((found[1], x.grad), (found[2], weight.grad)):
        assert (own - theirs).float().norm() <= tolerance * theirs.float().norm()
    torch.testing.assert_close(head_nll(x, weight, targets).sum().item(), found[0], rtol=1e-5, atol=1e-6)


def test_full_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.backends.torch.loss.logits_at_once", lambda *place: 64 * 50)
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


def test_mixed_and_pure_bfloat16(config: Callable[..., Config]) -> None:
    full = started(config())
    for params in ("float32", "bfloat16"):
        settings = config(train={"dtype": "bfloat16", "param_dtype": params})
        engine = started(settings)
        for batch in batches(5, 4):
            loss = engine.step([batch], batch.predictions, 0.01).read()[0]
            wanted = full.step([batch], batch.predictions, 0.01).read()[0] if params == "float32" else loss
            assert loss == pytest.approx(wanted, rel=0.03)
        kinds = {value.dtype for name, value in engine.dump() if "channels" not in name}
        assert kinds == {np.dtype(np.float32 if params == "float32" else ml_dtypes.bfloat16)}
        assert {value.dtype for _, value in engine.optimizer_state()} == kinds


def test_small_updates_survive_only_in_float32(config: Callable[..., Config]) -> None:
    """Why weights are kept in float32: near 1, bfloat16 can't tell 1 from 1.0001."""
    for params, moved in (("float32", True), ("bfloat16", False)):
        engine = started(config(train={"dtype": "bfloat16", "param_dtype": params}))
        for batch in batches(5, 4):
            engine.step([batch], batch.predictions, 1e-4)
        assert bool((values(engine)["model.norm.weight"].astype(np.float32) != 1).any()) is moved


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_goes_out_and_in_bit_for_bit(config: Callable[..., Config], dtype: str) -> None:
    settings = config(train={"dtype": dtype, "param_dtype": dtype})
    engine, data = started(settings), batches(6, 4)
    for batch in data[:3]:
        engine.step([batch], batch.predictions, 0.01)
    other = TorchEngine(settings, "cpu")
    other.load(engine.dump())
    other.load_optimizer_state(engine.optimizer_state(), 3)
    for batch in data[3:]:
        first, second = (each.step([batch], batch.predictions, 0.01).read() for each in (engine, other))
        assert first == second
    for name, value in values(engine).items():
        assert value.tobytes() == values(other)[name].tobytes(), name


def test_arrays_that_do_not_fit_are_refused(config: Callable[..., Config]) -> None:
    engine, good = TorchEngine(config(), "cpu"), dict(initial_values(config()))
    for changed, named in (
        ({"model.norm.weight": np.ones(3, np.float32)}, "model.norm.weight has shape"),
        ({"stranger": np.ones(3, np.float32)}, "stranger has shape"),
        ({"model.norm.weight": None}, "1 arrays are missing, model.norm.weight"),
    ):
        arrays = {**good, **changed}
        with pytest.raises(CheckpointError, match=named):
            engine.load((name, array) for name, array in arrays.items() if array is not None)


@pytest.mark.parametrize("kind", ["lost", "dense"])
def test_generation_with_a_cache_equals_reading_anew(config: Callable[..., Config], kind: str) -> None:
    engine = started(config(projection={"kind": kind}, model={"initializer_range": 1.0}))
    prompt = [3, 1, 4, 1, 5]
    fast = list(engine.generate(prompt, lambda logits: int(logits.argmax()), 20))
    slow = list(prompt)
    for _ in range(20):
        with torch.no_grad():
            slow.append(int(engine.model.logits(torch.tensor([slow]))[0, -1].argmax()))
    assert fast == slow[5:]
    assert len(set(fast)) > 3


def test_compiled_step_equals_eager(config: Callable[..., Config]) -> None:
    small = {"num_hidden_layers": 1}
    eager, compiled = started(config(model=small)), started(config(model=small, train={"compile": True}))
    for batch in batches(2, 4):
        first, second = (each.step([batch], batch.predictions, 0.01).read() for each in (eager, compiled))
        np.testing.assert_allclose(first, second, rtol=1e-5)
    for name, value in values(eager).items():
        np.testing.assert_allclose(value, values(compiled)[name], atol=1e-4, err_msg=name)


def test_devices_that_are_not_here() -> None:
    config = load_config("quickstart")
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


@pytest.mark.parametrize("kind", ["lost", "dense", "lowrank"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [2, 4])
def test_plan_estimates_what_autograd_saves(config: Callable[..., Config], kind: str, dtype: str, heads: int) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_key_value_heads": heads}
    settings = config(projection={"kind": kind, "rank": 16}, model=sizes, train={"dtype": dtype}, data={"seq_len": 64})
    engine = started(settings)
    own = {tensor.untyped_storage().data_ptr() for tensor in engine._tensors.values()}
    saved: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = engine.model.model(torch.zeros(2, 64, dtype=torch.long))
    held = sum(size for _, size in saved.values()) + states.nbytes
    logits = 8 * 128 * 19
    assert held == pytest.approx(budget(settings).memory.activations - logits, rel=0.03)
