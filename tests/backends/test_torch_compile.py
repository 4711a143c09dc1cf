"""The compiled step of PyTorch: how many graphs it takes, counted with a backend that runs them as they are."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo as dynamo
from device import TORCH
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from lost.backends.torch import devices
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.kernels.loss import head_loss
from lost.backends.torch.kernels.lost import narrow_lost
from lost.config import Config
from lost.data.batch import Batch
from lost.model.init import initial_values

KINDS = ("lost", "dense", "cola", "sltrain")
LOSS = int(TORCH.startswith("cuda"))  # there the loss is a graph of its own


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    """Count anew, without Inductor, whose code takes long to compile."""
    dynamo.reset()
    counters.clear()
    limit = dynamo.config.recompile_limit
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        yield
    dynamo.config.recompile_limit = limit
    dynamo.reset()


def started(config: Config, compiled: bool = True) -> TorchEngine:
    engine = TorchEngine(config.replace("train", compile=compiled), TORCH)
    engine.load(initial_values(config))
    return engine


def batch(size: int, length: int = 8) -> Batch:
    return Batch(np.random.default_rng(size * length).integers(0, 19, (size, length + 1)).astype(np.int32))


def graphs() -> int:
    """Graphs so far, with none broken in two."""
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("kind", "policy"), [("lost", "none"), ("lost", "narrow"), ("lost", "full"), *((k, "none") for k in KINDS[1:])]
)
def test_equal_blocks_share_one_graph(config: Callable[..., Config], kind: str, policy: str) -> None:
    """Evaluations of other shapes between the steps make no more; what is trained is what an eager engine trains."""
    settings = config(
        projection={"kind": kind, "short_conv_width": 3 if policy == "none" else 0},
        model={"num_hidden_layers": 3},
        train={"checkpoint_activations": policy},
    )
    compiled, eager = started(settings), started(settings, compiled=False)
    halves = [batch(2), batch(2)]
    for _ in range(2):
        found, expected = (engine.step(halves, 32, 0.01).wait() for engine in (compiled, eager))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert graphs() == 1 + LOSS
        for shapes in ([batch(3), batch(1)], [batch(2, 5)], [batch(2)]):
            compiled.evaluate(shapes)
        list(compiled.generate([1, 2], lambda scores: int(scores.argmax()), 3))
    assert graphs() == 1 + LOSS


def test_evaluation_is_that_of_an_eager_engine(config: Callable[..., Config]) -> None:
    shapes = [batch(3), batch(2, 5)]
    assert started(config()).evaluate(shapes) == started(config(), compiled=False).evaluate(shapes)
    assert graphs() == 0


def test_every_size_of_micro_batch_is_compiled_for_itself(config: Callable[..., Config]) -> None:
    """After a second one PyTorch would make code for any size: as when the first step shows that it doesn't fit."""
    engine = started(config(model={"num_hidden_layers": 1}))
    for made, size in enumerate((8, 4, 2), 1):
        engine.step([batch(size)], 8 * size, 0.01)
        assert graphs() == made * (1 + LOSS)


def test_every_block_may_differ(config: Callable[..., Config]) -> None:
    """More kinds of blocks than PyTorch compiles of one function by default; beyond that it would run them eagerly."""
    dynamo.config.recompile_limit = 2
    ranks = {f"model.layers.{layer}.*": {"rank": 2 + layer} for layer in range(3)}
    engine = started(config(model={"num_hidden_layers": 3}, projection={"overrides": ranks}))
    for _ in range(2):
        engine.step([batch(2)], 16, 0.01)
    assert graphs() == 3 + LOSS


def test_every_model_may_differ(config: Callable[..., Config]) -> None:
    """As in a self-test: of the one function that all blocks of a process run, as much may be compiled as all need."""
    dynamo.config.recompile_limit = 2
    for _ in range(3):
        started(config(model={"num_hidden_layers": 2}))
    assert dynamo.config.recompile_limit >= 3 * 2 * 8


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [[[0, 2, 9], [2, 3, 4, 5], [9]], [[1, 7]]])
def test_a_compiled_backward_pass_looks_nothing_up(channels: list[list[int]], last: bool) -> None:
    """To add by index would be atomics on a card, in an order that varies; to gather took longer than a product.

    Layers with one input may keep the same channel.
    """
    torch.manual_seed(0)
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    downs = [torch.randn(4, 10, dtype=torch.float64) for _ in channels]
    numbers = [torch.tensor(each, dtype=torch.int32) for each in channels]
    operations: set[str] = set()

    def backward(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        operations.update(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    def joined(x: Tensor) -> Tensor:
        return torch.cat([part for halves in narrow_lost(x, downs, numbers, last) for part in halves], -1)

    backend = aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=backward)
    with torch.compiler.set_stance("default"):
        y = torch.compile(joined, backend=backend)(x)
    outer = torch.randn_like(y)
    y.backward(outer)
    compiled, x.grad = x.grad, None
    joined(x).backward(outer)
    eager, x.grad = x.grad, None
    parts = [part for down, kept in zip(downs, channels, strict=True) for part in (x @ down.T, x[..., kept])]
    torch.cat(parts, -1).backward(outer)
    for own in (compiled, eager):
        torch.testing.assert_close(own, x.grad)
    assert "aten.mm.default" in operations
    assert not [each for each in operations if any(word in each for word in ("scatter", "gather", "index", "where"))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_loss_can_be_one_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it writes by index, and no argument changes. Chunks are of one size, and share a graph."""
    operations: list[str] = []

    def forward(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    monkeypatch.setattr("lost.backends.torch.kernels.loss.logits_at_once", lambda *place: 80 * 50)
    x, head = torch.randn(240, 8, dtype=dtype), torch.randn(50, 8)
    x, head = x.requires_grad_(), head.requires_grad_()
    with torch.compiler.set_stance("default", force_backend=aot_autograd(fw_compiler=forward)):
        head_loss(x, head, torch.zeros(240, dtype=torch.long), 1e-4, fused=True)
    assert operations.count("aten.mm.default") == 1
    assert [each for each in operations if "scatter" in each or "index" in each or "copy_" in each] == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, True),
        ({"device": "cpu"}, False),
        ({"device": "mps"}, False),
        ({"triton": False}, False),
        ({"capability": (7, 0)}, True),
        ({"capability": (6, 1)}, False),
        ({"compiler": "clang"}, True),
        ({"compiler": ""}, False),
        ({"compiler": "my-cc"}, False),  # of which nobody has told it
        ({"cc": "my-cc", "compiler": "my-cc"}, True),
        ({"cc": "my-cc"}, False),  # Triton then tries no other
        ({"headers": False}, False),
    ],
)
def test_cuda_compiles_by_default_where_it_can(
    found: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = {"device": "cuda:0", "triton": True, "capability": (9, 0), "cc": None, "compiler": "gcc", "headers": True}
    own |= found
    if own["headers"]:
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name, scheme: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if own["cc"]:
        monkeypatch.setenv("CC", own["cc"])
    monkeypatch.setattr(devices, "find_spec", lambda name: own["triton"] and name == "triton")
    monkeypatch.setattr("shutil.which", lambda name: name if name == own["compiler"] else None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: own["capability"])
    assert devices.compiles(own["device"]) == expected


@pytest.mark.parametrize(
    ("asked", "by_default", "expected"), [(None, True, True), (False, True, False), (True, False, True)]
)
def test_the_configuration_decides_first(
    config: Callable[..., Config],
    asked: bool | None,
    by_default: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "compiles", lambda device: by_default)
    engine = TorchEngine(config(train={"compile": asked}), TORCH)
    engine.load(initial_values(config()))
    engine.step([batch(2)], 16, 0.01)
    assert (engine.compiled, graphs()) == (expected, int(expected) * (1 + LOSS))


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_has_a_place_for_compiled_code(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container that runs as a number."""

    def nameless() -> str:
        raise error

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    devices.name_compiled_code()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    devices.name_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / f"torchinductor_{os.getuid()}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    devices.name_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
