"""Kernels that only Metal runs: their bodies compiled as C++, their place in a step, and what happens without them."""

import ctypes
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import metal
from lost.config import Config
from lost.data.batch import Batch

RANK, INPUT, CHANNELS = 5, 12, [0, 7, 8, 11]
SIZES = {"RANK": RANK, "INPUT": INPUT, "WIDTH": RANK + len(CHANNELS)}
# What Metal and MLX give a body: the thread's number, `exp`, and where the elements of a view are.
AROUND = """
#include <cmath>
#include <cstdint>
using uint = unsigned;
using T = float;
namespace metal {{ inline float exp(float x) {{ return std::exp(x); }} }}
static long elem_to_loc(long elem, const int* shape, const long* strides, int ndim) {{
    long place = 0;
    for (int i = ndim - 1; i >= 0; --i) {{ place += (elem % shape[i]) * strides[i]; elem /= shape[i]; }}
    return place;
}}
{sizes}
extern "C" void run(uint threads, {arguments}) {{
    for (uint number = 0; number < threads; ++number) {{
        struct {{ uint x; }} thread_position_in_grid{{number}};
        {body}
    }}
}}
"""


def as_cpp(folder: Path, body: str, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[..., None]:
    """A kernel's body as a function of the number of threads, gamma, inputs and outputs."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    arguments = ["const int* channels", "const float& gamma"]
    for name in inputs:
        arguments += [
            f"const float* {name}",
            f"const int* {name}_shape",
            f"const long* {name}_strides",
            f"int {name}_ndim",
        ]
    arguments += [f"float* {name}" for name in outputs]
    sizes = "\n".join(f"constexpr int {name} = {size};" for name, size in SIZES.items())
    source = folder / "kernel.cpp"
    source.write_text(AROUND.format(sizes=sizes, arguments=", ".join(arguments), body=body))
    subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", source, "-o", folder / "kernel.so"], check=True)
    function = ctypes.CDLL(folder / "kernel.so").run

    def call(threads: int, gamma: float, given: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        held: list[Any] = [np.array(CHANNELS, np.int32), ctypes.c_float(gamma)]
        words: list[Any] = [held[0].ctypes.data_as(ctypes.c_void_p), ctypes.byref(held[1])]
        for each in given:
            shape = np.array(each.shape, np.int32)
            strides = np.array(each.strides, np.int64) // each.itemsize
            held += [shape, strides]
            words += [array.ctypes.data_as(ctypes.c_void_p) for array in (each, shape, strides)]
            words.append(ctypes.c_int(each.ndim))
        words += [each.ctypes.data_as(ctypes.c_void_p) for each in results]
        function(ctypes.c_uint(threads), *words)

    return call


def plain(hidden: mx.array, x: mx.array, gamma: float = 0.7) -> mx.array:
    return mx.concatenate([gamma * nn.silu(hidden), (1 - gamma) * x[..., mx.array(CHANNELS)]], axis=-1)


def given() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bottleneck that is a view of a wider product, the layer's input, and a gradient that is a view too."""
    random = np.random.default_rng(0)
    wide = random.standard_normal((2, 3, 3 * RANK)).astype(np.float32) * 4
    outer = random.standard_normal((3, 2, SIZES["WIDTH"])).astype(np.float32).transpose(1, 0, 2)
    return wide[..., RANK : 2 * RANK], random.standard_normal((2, 3, INPUT)).astype(np.float32), outer


def test_the_forward_body(tmp_path: Path) -> None:
    hidden, x, _ = given()
    found = np.full((2, 3, SIZES["WIDTH"]), np.nan, np.float32)
    as_cpp(tmp_path, metal.FORWARD, ["hidden", "x"], ["inner"])(found.size, 0.7, [hidden, x], [found])
    np.testing.assert_allclose(found, np.array(plain(mx.array(hidden), mx.array(x))), rtol=1e-5, atol=1e-6)


def test_the_backward_body(tmp_path: Path) -> None:
    hidden, x, outer = given()
    found = [np.full(each.shape, np.nan, np.float32) for each in (hidden, x)]
    names = ["hidden", "gradient"], ["hidden_gradient", "x_gradient"]
    as_cpp(tmp_path, metal.BACKWARD, *names)(sum(each.size for each in found), 0.7, [hidden, outer], found)
    wanted = mx.grad(lambda *given: (plain(*given) * mx.array(outer)).sum(), argnums=(0, 1))(
        mx.array(hidden), mx.array(x)
    )
    for each, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each, np.array(expected), rtol=1e-5, atol=1e-6)


class Stub:
    """Metal's kernels where there is no Metal: the plain form, or what `spoil` makes of it. Counts the launches."""

    def __init__(self, spoil: Callable[[mx.array], mx.array] = lambda x: x) -> None:
        self.launched: Counter[str] = Counter()
        self._spoil = spoil

    def __call__(self, name: str, inputs: list[str], outputs: list[str], source: str, **options: Any) -> Callable:
        def launch(inputs: list[mx.array], output_shapes: list, **rest: Any) -> list[mx.array]:
            self.launched[name] += 1
            hidden, x, channels, gamma, *outer = inputs

            def form(hidden: mx.array, x: mx.array) -> mx.array:
                parts = [gamma * nn.silu(hidden), (1 - gamma) * x[..., channels]]
                return mx.concatenate(parts, axis=-1).astype(hidden.dtype)

            results = mx.vjp(form, [hidden, x], outer)[1] if outer else [form(hidden, x)]
            assert [each.shape for each in results] == [tuple(shape) for shape in output_shapes]
            return [self._spoil(each) for each in results]

        return launch


@pytest.fixture
def on_metal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], Stub]:
    def use(stub: Stub) -> Stub:
        monkeypatch.setattr(mx.fast, "metal_kernel", stub)
        monkeypatch.setattr(metal, "_here", lambda: True)
        return stub

    metal.works.cache_clear()
    metal._kernel.cache_clear()
    yield use  # type: ignore[misc]
    metal.works.cache_clear()
    metal._kernel.cache_clear()


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


@pytest.mark.parametrize(
    ("more", "layers"),
    [({}, 14), ({"short_conv_width": 3}, 14), ({"overrides": {"*.q_proj": {"activation": "gelu"}}}, 12),
     ({"learn_gamma": True}, 0)],
)  # fmt: skip
def test_a_step_with_kernels_is_the_step_without(
    config: Callable[..., Config], on_metal: Callable[[Stub], Stub], more: dict[str, Any], layers: int
) -> None:
    settings = config(projection={"kind": "lost", **more})
    expected = trained(settings)
    stub = on_metal(Stub())
    metal.works.cache_clear()
    found = trained(settings)
    tried = 2  # by `works`
    assert stub.launched == {"lost_mixed_forward": layers + tried, "lost_mixed_backward": layers + tried - 1}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_what_is_kept_stays_narrow(config: Callable[..., Config], on_metal: Callable[[Stub], Stub]) -> None:
    stub = on_metal(Stub())
    trained(config(projection={"kind": "lost"}, train={"checkpoint_activations": "narrow"}))
    assert stub.launched["lost_mixed_forward"] == 2


def refused(x: mx.array) -> mx.array:
    raise RuntimeError("[metal::Device] Unable to build metal library from source")


@pytest.mark.parametrize("spoil", [lambda x: x * 1.01, refused])
def test_kernels_that_are_wrong_are_not_taken(
    config: Callable[..., Config], on_metal: Callable[[Stub], Stub], spoil: Callable
) -> None:
    settings = config(projection={"kind": "lost"})
    expected = trained(settings)
    metal.works.cache_clear()
    stub = on_metal(Stub(spoil))
    found = trained(settings)
    assert 0 < stub.launched.total() <= 3
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
