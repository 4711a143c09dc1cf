"""What a compiled step of MLX launches: read from the graph, since no Metal is here. Nothing of it is computed."""

import mlx.core as mx
import pytest
from mlx_graph import as_on_metal, launches

from lost.backends.mlx.kernels.convolution import short_conv
from lost.backends.mlx.kernels.gather import embedded, kept
from lost.backends.mlx.model import Norm

# Operations of a first micro-step, of one that adds to gradients, and of an update.
MOST = {
    ("quickstart", "lost"): (275, 349, 212),
    ("quickstart", "dense"): (223, 269, 167),
    ("llama_60m", "lost"): (765, 831, 272),
    ("llama_60m", "dense"): (628, 662, 199),
}


@pytest.mark.parametrize("name", ["quickstart", "llama_60m"])
def test_a_step_on_metal_launches_few_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOST at most 1.3 times as many as dense, whatever the number of micro-batches."""
    as_on_metal(monkeypatch.setattr)
    found = {kind: [each.total() for each in launches(name, f"projection.kind={kind}")] for kind in ("lost", "dense")}
    for kind, counts in found.items():
        assert all(count <= most for count, most in zip(counts, MOST[name, kind], strict=True)), (kind, counts)
    for micro_batches in (1, 8):
        lost, dense = (first + (micro_batches - 1) * later + update for first, later, update in found.values())
        assert lost <= 1.3 * dense


@pytest.mark.parametrize(("kind", "stacks"), [("lost", 8), ("dense", 6)])
def test_an_update_by_adamw_launches_kernels_by_kinds(kind: str, stacks: int) -> None:
    """Three for each kind's norm, four for its new values, a copy of each gradient; the others are scalars."""
    *_, update = launches("quickstart", f"projection.kind={kind}", "optimizer.name=adamw")
    copies = update.pop("Concatenate")
    assert copies <= {"lost": 4 * 25 + 2, "dense": 4 * 11 + 2}[kind] + stacks
    assert update.total() <= 7 * stacks + 14


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
    found, *_ = launches("quickstart", f"projection.kind={kind}", "optimizer.name=adamw")
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
