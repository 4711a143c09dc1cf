"""Kernels that only Metal runs: their bodies compiled as C++, their place in a step, and what happens without them."""

import ctypes
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from lost.backends.mlx import bench
from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import gated, group, metal
from lost.backends.mlx.kernels.convolution import short_conv
from lost.config import Config
from lost.data.batch import Batch
from lost.model.parameters import projections

RANK, INPUT, OUTPUT, SHAPE = 5, 12, 7, (2, 19)
CHANNELS = [[0, 7, 8, 11], [1, 2, 3, 4], [5, 6, 7, 11]]
# What Metal and MLX give a body: the thread's number, `exp`, shapes.
AROUND = """
#include <cmath>
#include <cstdint>
using uint = unsigned;
using T = float;
namespace metal {{ inline float exp(float x) {{ return std::exp(x); }} }}
{sizes}
extern "C" void run(uint threads, {arguments}) {{
    for (uint number = 0; number < threads; ++number) {{
        struct {{ uint x; }} thread_position_in_grid{{number}};
        {body}
    }}
}}
"""


def as_cpp(folder: Path, name: str, layers: int, earlier: int, activated: bool) -> Callable[..., None]:
    """A kernel of layers as a function of the number of threads, and its inputs and outputs."""
    inputs, outputs, body = metal.described(name, layers, earlier > 0)
    run = metal.tokens_of_a_thread(SHAPE[0] * SHAPE[1]) if earlier else 1
    sizes = {"RANK": RANK, "INPUT": INPUT, "WIDTH": RANK + len(CHANNELS[0]), "LAYERS": layers, "EARLIER": earlier}
    sizes |= {"RUN": run, "ACTIVATED": int(activated)}
    return compiled(folder, inputs, outputs, body, sizes, (*SHAPE, layers * RANK))


def compiled(
    folder: Path, inputs: list[str], outputs: list[str], body: str, sizes: dict[str, int], shape: tuple[int, ...]
) -> Callable[..., None]:
    """A body as a function of the number of threads, and its inputs, the first one of a shape, and outputs."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    arguments = [f"const {'int' if each.startswith('channels') else 'float'}* {each}" for each in inputs]
    arguments = [each.replace("* gamma", "& gamma") for each in arguments] + [f"float* {each}" for each in outputs]
    arguments.insert(0, f"const int* {inputs[0]}_shape")
    constants = "\n".join(f"constexpr int {name} = {size};" for name, size in sizes.items())
    source = folder / "kernel.cpp"
    source.write_text(AROUND.format(sizes=constants, arguments=", ".join(arguments), body=body))
    library = source.with_suffix(".so")
    subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    function = ctypes.CDLL(library).run

    def call(threads: int, *arrays: np.ndarray) -> None:
        given = (np.array(shape, np.int32), *arrays)
        function(ctypes.c_uint(threads), *(each.ctypes.data_as(ctypes.c_void_p) for each in given))

    return call


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_the_bodies_of_the_gate(tmp_path: Path, name: str, activated: bool) -> None:
    random = np.random.default_rng(0)
    both, outer = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 3, 5), (2, 3, 5)))
    found = np.full(both.shape if name == "backward" else outer.shape, np.nan, np.float32)
    given = [both] if name == "forward" else [both, outer]
    kernel = compiled(tmp_path, *gated.NAMES[name], gated.BODIES[name], {"ACTIVATED": int(activated)}, both.shape)
    kernel(outer.size, *given, found)
    form = lambda both: (nn.silu(both[0]) if activated else both[0]) * both[1]  # noqa: E731
    wanted = mx.vjp(form, [mx.array(both)], [mx.array(outer)])[1][0] if name == "backward" else form(mx.array(both))
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-5, atol=1e-6)


def plain(layers: int, activated: bool, hidden: mx.array, x: mx.array, taps: mx.array | None) -> mx.array:
    """The layers' inner parts, (n, b, s, r + k)."""
    found = []
    for number, each in enumerate(mx.split(hidden, layers, axis=-1)):
        if taps is not None:
            own = taps[number].reshape(-1, each.shape[-1])
            pad = mx.pad(each, [(0, 0), (len(own), 0), (0, 0)])
            for back, tap in enumerate(own, 1):
                each = each + tap * pad[:, len(own) - back : pad.shape[1] - back]
        each = nn.silu(each) if activated else each
        found.append(mx.concatenate([0.7 * each, 0.3 * x[..., mx.array(CHANNELS[number])]], axis=-1))
    return mx.stack(found).astype(hidden.dtype)


WAYS = [(1, 0, True), (1, 2, True), (2, 2, False), (3, 1, True), (3, 0, False)]


def given(layers: int, earlier: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """A wide product and the input of layers, taps or none, gradients of results."""
    random = np.random.default_rng(0)
    shapes = [(*SHAPE, layers * RANK), (*SHAPE, INPUT), (layers, earlier * RANK)]
    hidden, x, taps = (random.standard_normal(shape).astype(np.float32) * 2 for shape in shapes)
    outer = [random.standard_normal((*SHAPE, RANK + len(CHANNELS[0]))).astype(np.float32) for _ in range(layers)]
    return [hidden, x], [taps] if earlier else [], outer


def constants(layers: int) -> list[np.ndarray]:
    return [np.array(0.7, np.float32), *(np.array(each, np.int32) for each in CHANNELS[:layers])]


@pytest.mark.parametrize(("layers", "earlier", "activated"), WAYS)
def test_the_forward_body(tmp_path: Path, layers: int, earlier: int, activated: bool) -> None:
    (hidden, x), taps, outer = given(layers, earlier)
    found = np.full((layers, *outer[0].shape), np.nan, np.float32)
    kernel = as_cpp(tmp_path, "forward", layers, earlier, activated)
    kernel(found.size, hidden, x, *constants(layers), *taps, found)
    wanted = plain(layers, activated, mx.array(hidden), mx.array(x), mx.array(taps[0]) if taps else None)
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layers", "earlier", "activated"), WAYS)
def test_the_backward_body(tmp_path: Path, layers: int, earlier: int, activated: bool) -> None:
    (hidden, x), taps, outer = given(layers, earlier)
    runs = metal.tap_parts(SHAPE[0] * SHAPE[1]) if earlier else SHAPE[0] * SHAPE[1]
    found = [np.full(each.shape, np.nan, np.float32) for each in (hidden, x)]
    found += [np.full((runs, *each.shape), np.nan, np.float32) for each in taps]
    threads = runs * layers * RANK + x.size
    kernel = as_cpp(tmp_path, "backward", layers, earlier, activated)
    kernel(threads, hidden, *constants(layers), *taps, *outer, *found)
    primals = [mx.array(each) for each in (hidden, x, *taps)]
    outer_of_all = mx.array(np.stack(outer))
    form = lambda hidden, x, taps=None: plain(layers, activated, hidden, x, taps)  # noqa: E731
    wanted = mx.vjp(form, primals, [outer_of_all])[1]
    found[2:] = [each.sum(axis=0) for each in found[2:]]
    for each, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each, np.array(expected), rtol=1e-4, atol=1e-5)


class Stub:
    """Metal's kernels where there is no Metal: the plain form, or what `spoil` makes of it. Counts the launches."""

    def __init__(self, spoil: Callable[[mx.array], mx.array] = lambda x: x) -> None:
        self.launched: Counter[str] = Counter()
        self._spoil = spoil

    def __call__(self, name: str, inputs: list[str], outputs: list[str], source: str, **options: Any) -> Callable:
        if name.startswith("lost_gated"):
            return self._gated(name.removeprefix("lost_"))
        _, way, layers, back = name.split("_")

        def launch(
            inputs: list[mx.array], template: list, output_shapes: list, output_dtypes: list, **rest: Any
        ) -> list:
            self.launched[way] += 1
            forward, count = way == "forward", int(layers)
            hidden, x = inputs[0], inputs[1] if forward else mx.zeros(output_shapes[1], inputs[0].dtype)
            gamma, *rest = inputs[2:] if forward else inputs[1:]
            channels, taps, outer = rest[:count], rest[count : count + (back == "back")], rest[-count:]
            own = partial(form, channels=channels, gamma=gamma, activated=bool(dict(template)["ACTIVATED"]))
            results = [own(hidden, x, *taps)]
            if not forward:
                results = mx.vjp(own, [hidden, x, *taps], [mx.stack(outer)])[1]
                results[2:] = [
                    mx.pad(each[None], [(0, output_shapes[2][0] - 1), (0, 0), (0, 0)]) for each in results[2:]
                ]
            assert [each.shape for each in results] == [tuple(shape) for shape in output_shapes]
            return [self._spoil(each).astype(dtype) for each, dtype in zip(results, output_dtypes, strict=True)]

        return launch

    def _gated(self, way: str) -> Callable:
        def launch(inputs: list[mx.array], template: list, **rest: Any) -> list[mx.array]:
            self.launched[way] += 1
            (_, dtype), (_, activated) = template

            def product(both: mx.array) -> mx.array:
                return (nn.silu(both[0]) if activated else both[0]) * both[1]

            both, *outer = inputs
            results = mx.vjp(product, [both], outer)[1] if outer else [product(both)]
            return [self._spoil(each).astype(dtype) for each in results]

        return launch


def form(
    hidden: mx.array, x: mx.array, taps: mx.array | None = None, *, channels: list, gamma: mx.array, activated: bool
) -> mx.array:
    """What a forward kernel makes."""
    found = []
    for number, (each, kept) in enumerate(zip(mx.split(hidden, len(channels), axis=-1), channels, strict=True)):
        if taps is not None:
            own = taps[number].reshape(-1, each.shape[-1])
            each = short_conv(mx.pad(each, [(0, 0), (len(own), 0), (0, 0)]), own)
        each = nn.silu(each) if activated else each
        found.append(mx.concatenate([gamma * each, (1 - gamma) * x[..., kept]], axis=-1))
    return mx.stack(found).astype(x.dtype)


@pytest.fixture
def on_metal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], Stub]:
    def use(stub: Stub) -> Stub:
        monkeypatch.setattr(mx.fast, "metal_kernel", stub)
        monkeypatch.setattr(metal, "here", lambda: True)
        return stub

    group._agree.cache_clear()
    metal._kernel.cache_clear()
    gated._kernel.cache_clear()
    yield use  # type: ignore[misc]
    group._agree.cache_clear()
    metal._kernel.cache_clear()
    gated._kernel.cache_clear()


def trained(config: Config) -> dict[str, np.ndarray]:
    engine = MlxEngine(config, "cpu")
    random = np.random.default_rng(1)
    values = {name: np.array(value) for name, value in engine.dump()}
    engine.load(
        (name, np.sort(random.permutation(16)[: len(value)]).astype(np.int32) if value.dtype == np.int32
         else random.standard_normal(value.shape).astype(np.float32) * 0.1)
        for name, value in values.items()
    )  # fmt: skip
    tokens = random.integers(0, 19, (4, 9)).astype(np.int32)
    engine.step([Batch(tokens)], 32, 1e-2).wait()
    return {name: np.array(value) for name, value in engine.optimizer_state()}


# By `works`: twice a way forward, once backward; two ways, with and without a look back, with and without SiLU.
TRIED = Counter(forward=16, backward=8, gated_forward=8, gated_backward=4)


@pytest.mark.parametrize(
    ("optimizer", "model"),
    [("adamw", {}), ("muon", {}), ("muon", {"num_key_value_heads": 4, "attention_bias": True}),
     ("muon", {"mlp_bias": True})],
)  # fmt: skip
@pytest.mark.parametrize(
    ("more", "groups"),
    [({}, 8), ({"short_conv_width": 3}, 8), ({"short_conv_width": 3, "activation": "none"}, 8),
     ({"overrides": {"*.q_proj": {"activation": "gelu"}}}, 6),
     ({"overrides": {"*.q_proj": {"gamma": 0.2}}}, 6), ({"learn_gamma": True}, 0)],
)  # fmt: skip
def test_a_step_with_kernels_is_the_step_without(
    config: Callable[..., Config],
    on_metal: Callable[[Stub], Stub],
    more: dict[str, Any],
    groups: int,
    optimizer: str,
    model: dict[str, Any],
) -> None:
    """Uncompiled, AdamW has no stacks, and so nothing that kernels could read as one."""
    settings = config(projection={"kind": "lost", **more}, model=model, optimizer={"name": optimizer})
    expected = trained(settings)
    stub = on_metal(Stub())
    group._agree.cache_clear()
    found = trained(settings)
    gates = 2 if groups and optimizer == "muon" and "mlp_bias" not in model else 0
    made = Counter(forward=groups, backward=groups, gated_forward=gates, gated_backward=gates)
    assert stub.launched == made + TRIED
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_what_is_computed_anew_has_the_same_gradients(
    config: Callable[..., Config], on_metal: Callable[[Stub], Stub]
) -> None:
    settings = config(projection={"kind": "lost", "short_conv_width": 3}, model={"num_key_value_heads": 4})
    expected = trained(settings)
    stub = on_metal(Stub())
    group._agree.cache_clear()
    found = trained(settings.replace("train", checkpoint_activations="full"))
    assert stub.launched == Counter(forward=2 * 8, backward=8) + TRIED
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_what_is_kept_stays_narrow(config: Callable[..., Config], on_metal: Callable[[Stub], Stub]) -> None:
    stub = on_metal(Stub())
    trained(config(projection={"kind": "lost"}, train={"checkpoint_activations": "narrow"}))
    assert stub.launched == TRIED


def test_a_cpu_has_no_kernels_though_a_gpu_had(on_metal: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, as `lost doctor --self-test` has both."""
    on_metal(Stub())
    group._agree.cache_clear()
    assert group.works(mx.float32)
    monkeypatch.setattr(metal, "here", lambda: False)
    assert not group.works(mx.float32)


def test_a_layer_is_timed_by_kernels(on_metal: Callable[[Stub], Stub], config: Callable[..., Config]) -> None:
    """As a model computes it."""
    stub = on_metal(Stub())
    settings = config(projection={"kind": "lost"})
    projection = projections(settings)[0]
    values = projection.initial(0, 0.02)
    bench.layer(projection, values, 8, settings.train, "cpu").run(1)
    assert (stub.launched - TRIED)["forward"] == 1


def refused(x: mx.array) -> mx.array:
    raise RuntimeError("[metal::Device] Unable to build metal library from source")


@pytest.mark.parametrize("spoil", [lambda x: x * 1.01, refused])
def test_kernels_that_are_wrong_are_not_taken(
    config: Callable[..., Config], on_metal: Callable[[Stub], Stub], spoil: Callable
) -> None:
    settings = config(projection={"kind": "lost"})
    expected = trained(settings)
    group._agree.cache_clear()
    stub = on_metal(Stub(spoil))
    found = trained(settings)
    assert 0 < stub.launched.total() <= TRIED.total()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
