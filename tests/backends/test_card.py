"""What only a CUDA card can show, at sizes that its fast kernels take: nothing waits, compiled is eager, to the bit."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from device import TORCH

from lost.backends.torch import devices
from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.data.batch import Batch
from lost.model.init import initial_values
from lost.projections import KINDS

pytestmark = pytest.mark.gpu

MODEL = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 512}
SIZES = {"model": MODEL | {"max_position_embeddings": 128}, "data": {"seq_len": 128}}


@pytest.fixture
def begun(config: Callable[..., Config]) -> Callable[..., TorchEngine]:
    """Make an engine in bfloat16, and take its first step."""

    def begin(kind: str = "lost", **train: bool) -> TorchEngine:
        projection = {"kind": kind, "rank": 64, "density": 0.1, "align": 8}
        settings = config(**SIZES, projection=projection, train={"dtype": "bfloat16", **train})
        engine = TorchEngine(settings, TORCH)
        engine.load(initial_values(settings))
        step(engine, 0)
        return engine

    return begin


def step(engine: TorchEngine, number: int) -> Callable[[], tuple[float, float]]:
    """Take a step of two micro-batches, which nothing waits for; return what waits."""
    tokens = np.random.default_rng(number).integers(0, 512, (2, 4, 129)).astype(np.int32)
    return engine.step([Batch(each) for each in tokens], 2 * 4 * 128, 1e-3).wait


@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_in_a_step_waits_for_the_card(begun: Callable[..., TorchEngine], compiled: bool) -> None:
    engine = begun(compile=compiled)
    torch.cuda.set_sync_debug_mode("error")
    try:
        wait = step(engine, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(wait()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_is_what_eager_is(begun: Callable[..., TorchEngine], kind: str) -> None:
    engines = [begun(kind, compile=compiled) for compiled in (False, True)]
    for number in range(1, 4):
        eager, compiled = (step(engine, number)() for engine in engines)
        np.testing.assert_allclose(compiled, eager, rtol=1e-2)


def test_this_card_compiles_by_default() -> None:
    assert devices.compiles(TORCH)


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `train.deterministic` tells the process is taken back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "1")
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("compiled", [False, True])
def test_deterministic_steps_repeat_to_the_bit(
    begun: Callable[..., TorchEngine], compiled: bool, as_before: None
) -> None:
    ends = []
    for _ in range(2):
        engine = begun(deterministic=True, compile=compiled)
        for number in range(1, 4):
            step(engine, number)()
        ends.append({name: np.array(value).tobytes() for name, value in engine.dump()})
    assert ends[0] == ends[1]
