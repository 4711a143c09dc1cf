"""The projections' forward passes: one class a kind, its parameters named as the core names them.

Weights are kept in `param_dtype` and cast to the input's type where they are used. Shapes: x (..., in), y (..., out).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lost.projections import Projection


class Layer(nn.Module):
    """Empty tensors for what the core lists; values come from `Engine.load`."""

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__()
        for suffix, tensor in projection.tensors().items():
            if tensor.integer:
                self.register_buffer(suffix, torch.zeros(tensor.shape, dtype=torch.int32))
            else:
                self.register_parameter(suffix, nn.Parameter(torch.empty(tensor.shape, dtype=dtype)))


class Dense(Layer):
    """y = W x."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(x, self.weight.to(x.dtype))


class LowRank(Layer):
    """y = up down x."""

    down: Tensor
    up: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]]: one product for the low-rank and the sparse part."""

    down: Tensor
    up: Tensor
    channels: Tensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.gamma, self.activated = projection.settings.gamma, projection.has_activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        hidden = F.linear(x, self.down.to(x.dtype))
        if self.activated:
            hidden = F.silu(hidden)
        kept = x.index_select(-1, self.channels)
        inner = torch.cat([self.gamma * hidden, (1 - self.gamma) * kept], dim=-1)
        return F.linear(inner, self.up.to(x.dtype))


KINDS: dict[str, type[Layer]] = {"dense": Dense, "lowrank": LowRank, "lost": Lost}


def layer(projection: Projection, dtype: torch.dtype) -> Layer:
    """Return the module of a projection."""
    return KINDS[projection.settings.kind](projection, dtype)
