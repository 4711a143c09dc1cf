"""Factors of MLX's layers, which in bfloat16 are multiplied in float32: rounded, 0.7 would be 0.1 % less everywhere."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest

import lost
from lost.backends.mlx.layers import layer
from lost.config import ProjectionSettings
from lost.projections import projection

ROWS, WIDTH, FACTOR = 5, 6, 0.7


@pytest.fixture(scope="module")
def exported() -> ModuleType:
    """What exports bring to mlx-lm."""
    path = Path(lost.__file__).parent / "interop" / "to_hf" / "templates" / "mlx_lost.py"
    spec = spec_from_file_location("exported", path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(len(shape))).astype(mx.bfloat16)


def times(x: mx.array, factor: float) -> mx.array:
    return (x.astype(mx.float32) * factor).astype(mx.bfloat16)


@pytest.mark.parametrize("at", ["low_rank", "inner", "output"])
@pytest.mark.parametrize("learned", [False, True])
def test_gamma(exported: ModuleType, at: str, learned: bool) -> None:
    """Through matrices that change nothing: of the first channels, then of what is kept."""
    gamma = {"learn_gamma": True} if learned else {"gamma": FACTOR}
    settings = {"kind": "lost", "rank": 3, "density": 0.5, "align": 1, "activation": "none"}
    settings |= {"activation_at": at, **gamma}
    module = layer(projection("some", WIDTH, WIDTH, ProjectionSettings.model_validate(settings)), mx.float32)
    kept = module.channels.size
    assert module.up.shape == (WIDTH, WIDTH)
    eye, channels = mx.eye(WIDTH), mx.arange(WIDTH - kept, WIDTH, dtype=mx.int32)
    module.update({"down": mx.eye(3, WIDTH), "up": eye, "channels": channels})
    if learned:
        module.gamma = mx.array([FACTOR])
    x = some(1, ROWS, WIDTH)
    found = module(x)
    assert mx.array_equal(found, mx.concatenate([times(x[..., :3], FACTOR), times(x[..., -kept:], 1 - FACTOR)], -1))
    told = {"kind": "lost", "rank": 3, "channels": kept, "activation": "none", "activation_at": at, "gamma": FACTOR}
    theirs = exported.Lost(WIDTH, WIDTH, told)
    theirs.down.weight, theirs.up.weight, theirs.channels = (
        mx.eye(3, WIDTH, dtype=mx.bfloat16), eye.astype(mx.bfloat16), channels
    )  # fmt: skip
    assert mx.array_equal(theirs(x), found)


def test_scale_of_adapters() -> None:
    settings = ProjectionSettings.model_validate({"kind": "lora", "rank": 3, "alpha": 3 * FACTOR})
    module = layer(projection("some", WIDTH, WIDTH, settings), mx.float32)
    module.update({"down": mx.eye(3, WIDTH)})
    x = some(ROWS, WIDTH)
    assert mx.array_equal(module.narrow(x)[1], times(x[:, :3], FACTOR))


def test_scale_of_sltrain(exported: ModuleType) -> None:
    settings = ProjectionSettings.model_validate({"kind": "sltrain", "rank": WIDTH, "alpha": WIDTH * FACTOR})
    module = layer(projection("some", WIDTH, WIDTH, settings), mx.float32)
    pair, identity = some(WIDTH, WIDTH), mx.eye(WIDTH, dtype=mx.bfloat16)
    module.update({"down": pair, "up": identity})
    assert mx.array_equal(module(identity), times(pair, FACTOR).T)
    theirs = exported.SlTrain(WIDTH, WIDTH, {"rank": WIDTH, "scale": FACTOR, "entries": 1})
    theirs.down.weight, theirs.up.weight, theirs["values"] = pair, identity, mx.zeros(1, mx.bfloat16)
    assert mx.array_equal(theirs(identity), times(pair, FACTOR).T)
