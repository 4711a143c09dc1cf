"""`lostify` on models of transformers and mlx-lm, and on a module of one's own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as mlx_nn
import numpy as np
import pytest
import torch
import transformers
from mlx.optimizers import Adam
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from torch import nn

import lost.backends.mlx
import lost.backends.torch
from lost.errors import UserError

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"
TOKENS = np.random.default_rng(0).integers(0, 96, (4, 17)) // 8 * 8  # a twelfth of the vocabulary: soon learned


def torch_llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, initializer_range=0.1))


def mlx_llama() -> Any:
    mx.random.seed(0)
    args = {"model_type": "llama", "rms_norm_eps": 1e-6, **SIZES}
    return llama.Model(llama.ModelArgs.from_dict(args))


def torch_losses(model: Any, steps: int) -> list[float]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    tokens = torch.from_numpy(TOKENS)
    for _ in range(steps):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def mlx_losses(model: Any, steps: int) -> list[float]:
    optimizer, losses = Adam(3e-3), []
    tokens = mx.array(TOKENS)

    def compute(model: Any) -> mx.array:
        return mlx_nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")

    step = mlx_nn.value_and_grad(model, compute)
    for _ in range(steps):
        loss, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    return losses


MAKERS: dict[str, tuple[Callable, Callable, Callable]] = {
    "torch": (torch_llama, torch_losses, lost.backends.torch.lostify),
    "mlx": (mlx_llama, mlx_losses, lost.backends.mlx.lostify),
}


def count(model: Any) -> int:
    if isinstance(model, nn.Module):
        return sum(each.numel() for each in model.parameters())
    return sum(each.size for _, each in tree_flatten(model.trainable_parameters()))


def outputs(model: Any) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return model(torch.from_numpy(TOKENS)).logits.numpy()
    return np.array(model(mx.array(TOKENS)))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("backend", MAKERS)
def test_trains_and_counts(backend: str, fresh: bool) -> None:
    make, losses_of, lostify = MAKERS[backend]
    model = make()
    report = lostify(model, rank=16, density=0.05, fresh=fresh)
    assert [each.name.split(".")[-1] for each in report.layers].count("q_proj") == 2
    assert len(report.layers) == 14
    assert (report.parameters_before, report.parameters_after) == (count(make()), count(model))
    # rank 16 and 3 channels, rounded up to 32 in all: down 16 x in, up out x 32
    halves = [(64, 64), (32, 64), (32, 64), (64, 64), (128, 64), (128, 64), (64, 128)]
    saved = 2 * sum(m * n - (16 * n + 32 * m) for m, n in halves)
    assert report.parameters_before - report.parameters_after == saved
    assert str(report) == f"14 layers converted: {count(make()):,} parameters before, {count(model):,} after"
    losses = losses_of(model, 20)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("backend", MAKERS)
def test_full_rank_keeps_the_function_and_fresh_does_not(backend: str) -> None:
    make, _, lostify = MAKERS[backend]
    expected = outputs(make())
    model = make()
    report = lostify(model, rank=64)
    np.testing.assert_allclose(outputs(model), expected, atol=1e-4)
    assert max(each.error for each in report.layers) < 1e-6
    changed = make()
    lostify(changed, rank=64, fresh=True)
    assert np.abs(outputs(changed) - expected).max() > 0.01


def test_backends_make_the_same_layers() -> None:
    weight = np.random.default_rng(0).standard_normal((48, 80)).astype(np.float32)
    bias = np.arange(48, dtype=np.float32)
    theirs, ours = nn.Sequential(nn.Linear(80, 48)), mlx_nn.Sequential(mlx_nn.Linear(80, 48))
    theirs[0].weight.data, theirs[0].bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    ours.layers[0].update({"weight": mx.array(weight), "bias": mx.array(bias)})
    for fresh in (False, True):
        left, right = nn.Sequential(nn.Linear(80, 48)), mlx_nn.Sequential(mlx_nn.Linear(80, 48))
        left.load_state_dict(theirs.state_dict())
        right.update(ours.parameters())
        lost.backends.torch.lostify(left, 8, 0.1, fresh=fresh)
        lost.backends.mlx.lostify(right, 8, 0.1, fresh=fresh)
        state = {name.removeprefix("0."): tensor.numpy() for name, tensor in left.state_dict().items()}
        found = {name: np.array(value) for name, value in right.layers[0].items() if not name.startswith("_")}
        assert state.keys() == found.keys() == {"down", "up", "channels", "bias"}
        for name, value in found.items():
            np.testing.assert_array_equal(value, state[name], err_msg=name)
        x = np.random.default_rng(1).standard_normal((5, 80)).astype(np.float32)
        found_y, y = np.array(right(mx.array(x))), left(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(found_y, y, atol=1e-5)


@pytest.mark.parametrize("backend", MAKERS)
def test_names_choose(backend: str) -> None:
    make, _, lostify = MAKERS[backend]
    report = lostify(make(), rank=8, include=["*.mlp.*"], exclude=["*.0.*", "*down_proj"])
    assert [each.name for each in report.layers] == [f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up")]
    for patterns in ({"include": ["*.attn"]}, {"exclude": ["*"]}):
        with pytest.raises(UserError, match=r"no layer to swap: .* 15 linear layers \(.*; expected patterns that"):
            lostify(make(), rank=8, **patterns)
    empty = nn.Embedding(3, 4) if backend == "torch" else mlx_nn.Embedding(3, 4)
    with pytest.raises(UserError, match="0 linear layers"):
        lostify(empty, rank=8)
    for wrong in ({"rank": 0}, {"rank": 8, "density": 0.0}, {"rank": 8, "gamma": 1.0}):
        with pytest.raises(UserError, match="expected a rank of at least 1, a density in"):
            lostify(make(), **wrong)


def test_torch_state_comes_back(tmp_path: Path) -> None:
    model, other = torch_llama(), torch_llama()
    lost.backends.torch.lostify(model, 16)
    torch_losses(model, 2)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    lost.backends.torch.lostify(other, 16)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    np.testing.assert_array_equal(outputs(other), outputs(model))


def test_mlx_state_comes_back(tmp_path: Path) -> None:
    model, other = mlx_llama(), mlx_llama()
    lost.backends.mlx.lostify(model, 16)
    mlx_losses(model, 2)
    model.save_weights(str(tmp_path / "weights.safetensors"))
    lost.backends.mlx.lostify(other, 16)
    other.load_weights(str(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(outputs(other), outputs(model))


def test_mlx_channels_stay_frozen_whatever_is_thawed() -> None:
    model = mlx_llama()
    lost.backends.mlx.lostify(model, 16)
    model.freeze()
    assert not tree_flatten(model.trainable_parameters())
    model.unfreeze()
    model.unfreeze(keys=["channels"])
    names = dict(tree_flatten(model.trainable_parameters()))
    assert any(name.endswith("up") for name in names)
    assert not any(name.endswith("channels") for name in names)


def test_torch_types_places_and_what_is_left_alone() -> None:
    model = nn.ModuleDict(
        {"a": nn.Linear(64, 64, bias=False), "b": nn.MultiheadAttention(64, 4), "c": nn.Linear(64, 8)}
    )
    model["c"].weight = nn.Parameter(torch.randn(8, 64), requires_grad=False)
    model.to(torch.bfloat16)
    report = lost.backends.torch.lostify(model, 16)
    assert [each.name for each in report.layers] == ["a", "c"]  # attention looks into a subclass of its own
    assert [each.rank for each in report.layers] == [16, 8]
    assert model["a"].up.dtype == torch.bfloat16
    assert model["a"].bias is None
    assert not model["c"].down.requires_grad
    assert model["c"].in_features == 64


def test_torch_trains_under_autocast() -> None:
    model = torch_llama()
    lost.backends.torch.lostify(model, 16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = torch_losses(model, 20)
    assert losses[-1] < 0.6 * losses[0]


class Shared(mlx_nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = mlx_nn.Embedding(96, 64), mlx_nn.Linear(64, 96, bias=False)
        self.out.weight = self.inside.weight
        self.a = self.b = mlx_nn.Linear(64, 64)


def test_refuses_shared_weights_and_a_layer_alone() -> None:
    model = nn.ModuleDict({"inside": nn.Embedding(96, 64), "out": nn.Linear(64, 96, bias=False)})
    model["out"].weight = model["inside"].weight
    model["a"] = model["b"] = nn.Linear(64, 64)
    for lostify, shared, alone in (
        (lost.backends.torch.lostify, model, nn.Linear(64, 64)),
        (lost.backends.mlx.lostify, Shared(), mlx_nn.Linear(64, 64)),
    ):
        with pytest.raises(UserError, match=r"out shares its weight with inside\.weight"):
            lostify(shared, 8, include=["out"])
        with pytest.raises(UserError, match=r"a shares its weight with b\.weight"):
            lostify(shared, 8, include=["a"])
        with pytest.raises(UserError, match="itself a linear layer"):
            lostify(alone, 8)


def test_mlx_counts_what_is_shared_once() -> None:
    model = Shared()
    model.c = mlx_nn.Linear(64, 64, bias=False)
    report = lost.backends.mlx.lostify(model, 8, include=["c"])
    assert report.parameters_before == 96 * 64 + 65 * 64 + 64 * 64
    assert report.parameters_before - report.parameters_after == 64 * 64 - (8 * 64 + 64 * 32)


def test_a_bias_is_trained_or_not_as_before() -> None:
    theirs, ours = nn.Sequential(nn.Linear(64, 64)), mlx_nn.Sequential(mlx_nn.Linear(64, 64))
    theirs[0].weight.requires_grad_(False)
    ours.layers[0].freeze(keys=["weight"])
    lost.backends.torch.lostify(theirs, 8)
    lost.backends.mlx.lostify(ours, 8)
    assert [name for name, each in theirs.named_parameters() if each.requires_grad] == ["0.bias"]
    assert [name for name, _ in tree_flatten(ours.trainable_parameters())] == ["layers.0.bias"]


@pytest.mark.parametrize("backend", MAKERS)
def test_all_or_nothing(backend: str) -> None:
    make, _, lostify = MAKERS[backend]
    model = make()
    last = model.model.layers[1].mlp.up_proj
    if backend == "torch":
        last.weight.data[0, 0] = torch.nan
    else:
        last.weight[0, 0] = mx.nan
    with pytest.raises(UserError, match="finite"):
        lostify(model, 8)
    assert "Lost" not in str(model)


def test_torch_refuses_weights_without_values() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(UserError, match="no values yet"):
        lost.backends.torch.lostify(empty, 8)


def test_examples_of_the_document_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), {})
        assert (printed := capsys.readouterr().out.strip())
        assert f"# {printed}\n" in example
