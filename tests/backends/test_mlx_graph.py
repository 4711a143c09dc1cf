"""What a compiled step of MLX launches: read from the graph, since no Metal is here. Nothing of it is computed."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_graph import primitives

from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import checkpointing, metal
from lost.backends.mlx.kernels.convolution import short_conv
from lost.backends.mlx.kernels.gather import embedded, kept
from lost.backends.mlx.model import Norm
from lost.data.batch import Batch
from lost.model.load import load_config

# No bigger than it must be to have every tensor and every fusion of the real one.
NARROW = ("model.hidden_size=64", "model.intermediate_size=96", "model.vocab_size=64", "data.seq_len=16",
          "projection.rank=16", "projection.align=8", "train.batch_size=1", "train.micro_batch_size=1",
          "train.compile=true")  # fmt: skip


@pytest.fixture(autouse=True)
def as_on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "on_cpu", lambda: False)


def launches(name: str, *settings: str) -> tuple[Counter[str], Counter[str]]:
    """Operations of a micro-step, and of a whole update with the gradients' norm."""
    engine = MlxEngine(load_config(name, [*NARROW, *settings]), "cpu")
    mx.eval(engine.model.parameters(), engine._optimizer.held())
    tokens = engine._on_device(Batch(np.zeros((1, 17), np.int32)))
    nll, gradients = engine._micro_step(*tokens, mx.array(1.0), None)
    micro_step = primitives(nll, gradients)
    given = {name: mx.ones(each.shape) for name, each in tree_flatten(gradients)}
    mx.eval(given)
    norm = engine._norm(given)
    joint = primitives(norm)
    mx.eval(norm)
    engine._update(mx.array(0.1), norm, given)
    return micro_step, joint + primitives(engine.model.state, engine._optimizer.held())


SIZES = [("quickstart", "lost", 960, 102), ("quickstart", "dense", 526, 46), ("llama_60m_paper", "lost", 1552, 131),
         ("llama_60m_paper", "dense", 958, 75)]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "micro_step", "tensors"), SIZES)
def test_a_step_launches_few_kernels(name: str, kind: str, micro_step: int, tensors: int) -> None:
    """Of an update: three for each tensor's norm, four for its new values; the others are scalars."""
    found, update = launches(name, f"projection.kind={kind}", "optimizer.name=adamw")
    assert found.total() <= micro_step
    assert update.total() <= 7 * tensors + 12


def test_kernels_of_metal_take_the_place_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three operations forward and one backward in each of 28 layers."""
    launched = []

    def launch(name: str, inputs: list[mx.array], shapes: list[tuple[int, ...]]) -> list[mx.array]:
        launched.append(name)
        made = [mx.zeros(shape, inputs[0].dtype) for shape in shapes]
        mx.eval(made)
        return mx.depends(made, inputs)

    plain, _ = launches("quickstart", "optimizer.name=adamw")
    monkeypatch.setattr(metal, "works", lambda dtype: True)
    monkeypatch.setattr(metal, "_launch", launch)
    others, _ = launches("quickstart", "optimizer.name=adamw")
    assert Counter(launched) == {"forward": 28, "backward": 28}
    assert others.total() + len(launched) <= plain.total() - 28 * 4 + 1


@pytest.mark.parametrize("weights", [mx.float32, mx.bfloat16])
def test_norms_of_bfloat16_read_and_write_it(weights: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal's kernel adds up in float32 by itself; a float32 weight keeps its bits, which bfloat16 would round to 1."""
    norm, x = Norm(64, 1e-5, weights), mx.random.normal((8, 64), key=mx.random.key(0)).astype(mx.bfloat16)
    norm.weight = mx.full(64, 1.003, weights)
    wide = mx.fast.rms_norm(x.astype(mx.float32), norm.weight.astype(mx.float32), 1e-5)
    taken, kernel = [], mx.fast.rms_norm
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, *rest: (taken.append(x.dtype), kernel(x, *rest))[1])
    found = norm(x)
    assert (found.dtype, taken) == (mx.bfloat16, [mx.bfloat16])
    assert mx.allclose(found.astype(mx.float32), wide, rtol=2**-7)
    found = found.astype(mx.float32)
    assert mx.abs(found).sum().item() == pytest.approx(mx.abs(wide).sum().item(), rel=1e-3)


# SLTrain adds each value to a place of its own (indices are distinct): in both passes of 28 layers.
SUMS = {"dense": 1, "lowrank": 1, "cola": 1, "sltrain": 1 + 2 * 28, "lost": 1}


@pytest.mark.parametrize("kind", SUMS)
def test_only_the_embedding_gradient_is_a_sum_over_places(kind: str) -> None:
    """And that is added up on the CPU: on Metal additions to one place come in any order."""
    found, _ = launches("quickstart", f"projection.kind={kind}", "optimizer.name=adamw")
    puts = {"ScatterAxis": 28} if kind == "lost" else {}
    assert {name: count for name, count in found.items() if "Scatter" in name} == {**puts, "Scatter Sum": SUMS[kind]}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gradient_of_kept_channels(dtype: mx.Dtype) -> None:
    x, weights = (mx.random.normal((2, 3, width), key=mx.random.key(width)).astype(dtype) for width in (12, 5))
    channels = mx.array([1, 2, 5, 8, 11], mx.int32)
    found = mx.grad(lambda x: (kept(x, channels) * weights).sum())(x)
    wanted = mx.grad(lambda x: (x[..., channels] * weights).sum())(x)
    assert found.dtype == dtype
    assert mx.array_equal(found, wanted)


@pytest.mark.parametrize("earlier", [1, 2, 3])
def test_gradients_of_the_convolution(earlier: int) -> None:
    joined, taps, outer = (
        mx.random.normal(shape, key=mx.random.key(len(shape)))
        for shape in ((2, earlier + 6, 5), (earlier, 5), (2, 6, 5))
    )

    def derived(joined: mx.array, taps: mx.array) -> mx.array:
        y = joined[:, earlier:]
        for number in range(1, earlier + 1):
            y = y + taps[number - 1] * joined[:, earlier - number : len(joined[0]) - number]
        return y

    found, wanted = (
        mx.grad(lambda *given, of=of: (of(*given) * outer).sum(), argnums=(0, 1))(joined, taps)
        for of in (short_conv, derived)
    )
    assert all(mx.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_gradient_of_the_embedding_is_summed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Metal additions to one row would come in any order."""
    weight, tokens = mx.random.normal((7, 4), key=mx.random.key(0)), mx.array([[1, 1, 6], [0, 1, 6]])
    outer = mx.random.normal((2, 3, 4), key=mx.random.key(1))
    streams = []
    plain = mx.stream
    monkeypatch.setattr(mx, "stream", lambda device: streams.append(device) or plain(device))
    found = mx.grad(lambda weight: (embedded(weight, tokens) * outer).sum())(weight)
    assert streams == [mx.cpu]
    assert mx.array_equal(found, mx.grad(lambda weight: (weight[tokens] * outer).sum())(weight))
