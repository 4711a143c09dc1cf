"""The projections' layers: one class a kind, with the core's parameter names.

A forward pass has two halves: `narrow` maps x (..., in) to the bottleneck, and `widen` maps that to y (..., out).
Activation checkpointing cuts between them. Weights are stored in `param_dtype` and cast to the input's type on use.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lost.backends.torch.kernels.lost import ACTIVATIONS, narrow_lost, short_conv, widen_lost
from lost.backends.torch.kernels.quantized import quantized_linear
from lost.engine.registry import implementation
from lost.projections import Projection
from lost.projections.adapters import Adapter as AdapterProjection
from lost.projections.sltrain import SlTrain as SlTrainProjection

Narrow = tuple[Tensor, ...]
Before = dict[str, Tensor]
"""By a projection's name, the features of the last tokens that its convolution needs, (b, n, r)."""


class Layer(nn.Module, ABC):
    """A layer with the tensors that its projection lists, empty until `Engine.load`."""

    bias: Tensor | None
    conv: Tensor | None

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__()
        self.name, self.earlier = projection.name, projection.earlier_tokens
        self.register_parameter("bias", None)
        self.register_parameter("conv", None)
        for suffix, tensor in projection.tensors().items():
            if tensor.integer:
                self.register_buffer(suffix, torch.zeros(tensor.shape, dtype=torch.int32))
            else:
                values = torch.empty(tensor.shape, dtype=dtype)
                self.register_parameter(suffix, nn.Parameter(values, requires_grad=tensor.trained))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.widen(*self.narrow(x))

    @abstractmethod
    def narrow(self, x: Tensor) -> Narrow:
        """Return the first half."""

    def widen(self, *parts: Tensor, before: Before | None = None) -> Tensor:
        """Return the second half, with the convolution and the bias if there are any.

        Args:
            parts: the first half.
            before: what the convolutions of a block read last; it is taken from there, and left there.
        """
        if self.conv is not None:
            parts = (self._convolved(parts[0], self.conv, before), *parts[1:])
        y = self._widen(*parts)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @abstractmethod
    def _widen(self, *parts: Tensor) -> Tensor:
        """Return the second half, without the convolution and the bias."""

    def _convolved(self, hidden: Tensor, weight: Tensor, before: Before | None) -> Tensor:
        if before is None:
            return short_conv(hidden, weight)
        last = before.get(self.name)
        joined = F.pad(hidden, (0, 0, self.earlier, 0)) if last is None else torch.cat([last, hidden], 1)
        before[self.name] = joined[:, -self.earlier :]
        return short_conv(joined, weight)[:, self.earlier :]


class Dense(Layer):
    """y = W x, all of it in the first half: there is no bottleneck."""

    weight: Tensor

    def narrow(self, x: Tensor) -> Narrow:
        """Return W x."""
        return (F.linear(x, self.weight.to(x.dtype)),)

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return it unchanged."""
        return parts[0]


class LowRank(Layer):
    """y = up act(down x): CoLA, and without activation the plain low-rank baseline."""

    down: Tensor
    up: Tensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.act = ACTIVATIONS[projection.settings.activation if projection.has_activation else "none"]

    def narrow(self, x: Tensor) -> Narrow:
        """Return down x."""
        return (F.linear(x, self.down.to(x.dtype)),)

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return up act(down x)."""
        return F.linear(self.act(parts[0]), self.up.to(parts[0].dtype))


class SlTrain(Layer):
    """y = (scale up down + S) x, the weight composed in each pass and never kept, as in the authors' code."""

    down: Tensor
    up: Tensor
    values: Tensor
    indices: Tensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        assert isinstance(projection, SlTrainProjection)
        super().__init__(projection, dtype)
        self.scale = projection.scale

    def narrow(self, x: Tensor) -> Narrow:
        """Return W x."""
        return (_SlTrain.apply(x, self.down, self.up, self.values, self.indices, self.scale),)

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return it unchanged."""
        return parts[0]


class _SlTrain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, values: Tensor, indices: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, down, up, values, indices)
        ctx.scale = scale
        return F.linear(x, _composed(x.dtype, down, up, values, indices, scale))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, values, indices = ctx.saved_tensors
        rows, y_grad = x.flatten(0, -2), outer[0].flatten(0, -2)
        x_grad = y_grad @ _composed(x.dtype, down, up, values, indices, ctx.scale)
        weight_grad = y_grad.T @ rows
        values_grad = weight_grad.view(-1)[indices.long()].to(values.dtype)
        pair_grad = weight_grad.mul_(ctx.scale)
        down_grad = (up.to(x.dtype).T @ pair_grad).to(down.dtype)
        return x_grad.view_as(x), down_grad, (pair_grad @ down.to(x.dtype).T).to(up.dtype), values_grad, None, None


def _composed(dtype: torch.dtype, down: Tensor, up: Tensor, values: Tensor, indices: Tensor, scale: float) -> Tensor:
    """Return the weight (out, in), computed in `dtype`: products in float32 would take most of a step on a GPU."""
    weight = (up.to(dtype) @ down.to(dtype)).mul_(scale)
    weight.view(-1).index_add_(0, indices, values.to(dtype))
    return weight


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]]: one product for the low-rank and the sparse part."""

    down: Tensor
    up: Tensor
    channels: Tensor
    gamma: Tensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        settings = projection.settings
        self.mixing = self.gamma if settings.learn_gamma else settings.gamma
        self.activation, self.activation_at = settings.activation, settings.activation_at

    def narrow(self, x: Tensor) -> Narrow:
        """Return down x, and x[channels]."""
        return narrow_lost(x, [self.down], [self.channels])[0]

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere."""
        hidden, kept = parts
        act, gamma = ACTIVATIONS[self.activation], self.mixing
        if self.activation_at == "low_rank" and isinstance(gamma, float) and not torch.compiler.is_compiling():
            return widen_lost(hidden, kept, self.up, gamma, self.activation)
        if isinstance(gamma, Tensor):
            gamma = gamma.to(hidden.dtype)
        if self.activation_at != "output":
            hidden = act(hidden)
        if self.activation_at == "inner":
            kept = act(kept)
        inner = torch.cat([gamma * hidden, (1 - gamma) * kept], dim=-1)
        y = F.linear(inner, self.up.to(inner.dtype))
        return act(y) if self.activation_at == "output" else y


class Adapter(Layer):
    """y = W x + scale up down x, of which the pair is trained."""

    weight: Tensor
    scales: Tensor
    biases: Tensor
    down: Tensor
    up: Tensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        assert isinstance(projection, AdapterProjection)
        super().__init__(projection, dtype)
        self.scale, self.bits = projection.scale, projection.settings.bits

    def narrow(self, x: Tensor) -> Narrow:
        """Return W x, and scale down x."""
        return self._whole(x), F.linear(x, self.down.to(x.dtype)) * self.scale

    def _whole(self, x: Tensor) -> Tensor:
        """Return W x."""
        if self.bits is None:
            return F.linear(x, self.weight.to(x.dtype))
        return quantized_linear(x, self.weight, self.scales, self.biases, self.bits)

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return their sum, once the second one is multiplied by up."""
        return parts[0] + F.linear(parts[1], self.up.to(parts[1].dtype))


class FixedPair(Adapter):
    """y = W x + up core down x, of which `core`, a matrix or a vector, is trained."""

    core: Tensor

    def _widen(self, *parts: Tensor) -> Tensor:
        """Return their sum, once the second one is multiplied by core and up."""
        hidden, core = parts[1], self.core.to(parts[1].dtype)
        hidden = F.linear(hidden, core) if core.dim() == 2 else hidden * core
        return parts[0] + F.linear(hidden, self.up.to(hidden.dtype))


def narrow(layers: Sequence[Layer], x: Tensor, last: bool) -> list[Narrow]:
    """Return the first halves of layers with the same input, of LOST layers by one product and one gather.

    Args:
        layers: one or more.
        x: (..., in).
        last: whether a checkpointed segment ends here.
    """
    lost = [each for each in layers if isinstance(each, Lost) and type(each).narrow is Lost.narrow]
    # Whoever looks at layers' inputs has replaced their `narrow`, and compiles nothing.
    watched = not torch.compiler.is_compiling() and any("narrow" in vars(each) for each in layers)
    if len(lost) < len(layers) or watched:
        return [each.narrow(x) for each in layers]
    return narrow_lost(x, [each.down for each in lost], [each.channels for each in lost], last)


def layer(projection: Projection, dtype: torch.dtype) -> Layer:
    """Return the layer of a projection.

    Raises:
        BackendError: this backend doesn't implement its kind.
    """
    kind = projection.settings.kind
    cls: type[Layer] = implementation("projection.kind", kind, type(projection).layers, "torch")
    return cls(projection, dtype)
