"""SLTrain's weight, formed in the type of computation: a baseline that is as fast as its method allows."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lost.backends.mlx.layers import _composed_product
from lost.backends.torch.layers import layer
from lost.config import ProjectionSettings
from lost.projections import projection

SLTRAIN = projection("some", 40, 24, ProjectionSettings(kind="sltrain", rank=8, density=0.1))


def values() -> dict[str, np.ndarray]:
    random, shapes = np.random.default_rng(0), SLTRAIN.tensors()
    found = {name: random.standard_normal(each.shape, np.float32) for name, each in shapes.items() if not each.integer}
    return found | {"indices": np.sort(random.permutation(40 * 24)[: shapes["indices"].shape[0]]).astype(np.int32)}


class Products(TorchDispatchMode):
    """Notes the types of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.endswith("mm"):
            self.types.append(result.dtype)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_the_type_of_computation(dtype: torch.dtype) -> None:
    """Two forward and five backward; gradients in the weights' own type, near those of float32."""
    module = layer(SLTRAIN, torch.float32)
    with torch.no_grad():
        for name, value in values().items():
            getattr(module, name).copy_(torch.from_numpy(value))
    x, seen = torch.randn(2, 9, 40), Products()
    with seen:
        inputs = x.to(dtype).requires_grad_()
        found = torch.autograd.grad(module(inputs).float().square().sum(), [inputs, *module.parameters()])
    assert seen.types == [dtype] * 7
    inputs = x.clone().requires_grad_()
    weight = module.scale * module.up @ module.down
    weight = weight.flatten().index_add(0, module.indices, module.values).view(24, 40)
    exact = torch.autograd.grad((inputs @ weight.T).square().sum(), [inputs, *module.parameters()])
    assert [each.dtype for each in found] == [dtype, *[torch.float32] * 3]
    for own, theirs in zip(found, exact, strict=True):
        assert (own.float() - theirs).norm() < (1e-5 if dtype is torch.float32 else 2e-2) * theirs.norm()


def test_the_same_on_mlx() -> None:
    given = {name: mx.array(value) for name, value in values().items()}
    x = mx.random.normal((9, 40)).astype(mx.bfloat16)
    down, up, sparse = (given[name].astype(mx.bfloat16) for name in ("down", "up", "values"))
    weight = (up @ down * 2.0).flatten().at[given["indices"]].add(sparse).reshape(24, 40)
    found = _composed_product(x, given["down"], given["up"], given["values"], given["indices"], 2.0)
    assert mx.array_equal(found, x @ weight.T)
