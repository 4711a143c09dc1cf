"""Autograd functions of the LOST projection's two halves: one product each way, and little saved.

Autograd would allocate an array as wide as x for the gather's gradient, and save weights cast to a narrower type. Here
the first half saves x alone and adds the channels' gradient into the product's, or where it is compiled has the product
add it; the second saves the factor of `up` and what the activation read. benchmarks/layer_choices.py measures the
alternatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
    "none": lambda x: x,
}
# The gradient of an activation's input, given that of its output.
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": torch.ops.aten.silu_backward,
    "gelu": torch.ops.aten.gelu_backward,
    "relu2": lambda outer, x: outer * (2 * F.relu(x)),
}


def short_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Return (b, s, r), to which what it was one token earlier, two, and so on, is added, each weighted by feature.

    Args:
        x: (b, s, r); before its first token there are zeros.
        weight: (n r,), a part for each of n earlier tokens, the last one first.
    """
    taps = weight.to(x.dtype).view(-1, x.shape[-1])
    if not torch.compiler.is_compiling():
        return _ShortConv.apply(x, taps)
    count, length = len(taps), x.shape[1]
    before = F.pad(x, (0, 0, count, 0))
    return x + sum(taps[number - 1] * before[:, count - number :][:, :length] for number in range(1, count + 1))


def narrow_lost(
    x: Tensor, downs: Sequence[Tensor], channels: Sequence[Tensor], last: bool = False
) -> list[tuple[Tensor, ...]]:
    """Return (down x, x[channels]) for each layer: (..., rank) and (..., k).

    Args:
        x: (..., in), the input of all of them.
        downs: (rank, in) each.
        channels: (k,) int32 each.
        last: whether a checkpointed segment ends here. Recomputation stops at the last saved tensor, which for the
            product below is x: so the product isn't computed twice. The compiler finds that out for itself.
    """
    ranks, counts = [len(each) for each in downs], [len(each) for each in channels]
    indices = _joined(channels).long()
    if last and not torch.compiler.is_compiling():
        kept = _Gather.apply(x, indices, counts)
        hidden = F.linear(x, _joined(downs).to(x.dtype))
    else:
        hidden, kept = _Narrow.apply(x, indices, counts, *downs)
    if len(downs) == 1:  # a split would copy in the backward pass
        return [(hidden, kept)]
    return list(zip(hidden.split(ranks, -1), kept.split(counts, -1), strict=True))


def widen_lost(hidden: Tensor, kept: Tensor, up: Tensor, gamma: float, activation: str) -> Tensor:
    """Return up [gamma act(hidden) ; (1 - gamma) kept], (..., out).

    Args:
        hidden: (..., rank), down x.
        kept: (..., k), x[channels].
        up: (out, rank + k).
        gamma: weight of the low-rank part.
        activation: silu, gelu, relu2 or none.
    """
    return _Widen.apply(hidden, kept, up, gamma, activation)


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        y = x.clone()
        for number, row in enumerate(taps, 1):
            y[:, number:].addcmul_(x[:, :-number], row)
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        y_grad = outer[0]
        x_grad, taps_grad = y_grad.clone(), torch.empty_like(taps)
        for number, row in enumerate(taps, 1):
            x_grad[:, :-number].addcmul_(y_grad[:, number:], row)
            taps_grad[number - 1] = (y_grad[:, number:] * x[:, :-number]).sum((0, 1))
        return x_grad, taps_grad


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: Tensor, counts: list[int], *downs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, channels, *downs)
        ctx.counts = counts
        rows = x.flatten(0, -2)
        hidden = rows @ _joined(downs).to(x.dtype).T
        kept = rows.gather(1, channels.expand(len(rows), -1))
        return hidden.view(*x.shape[:-1], -1), kept.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, channels, *downs = ctx.saved_tensors
        hidden_grad, kept_grad = (each.flatten(0, -2) for each in outer)
        if torch.compiler.is_compiling():
            x_grad = _as_product(hidden_grad, kept_grad, _joined(downs).to(x.dtype), channels)
        else:
            x_grad = hidden_grad @ _joined(downs).to(x.dtype)
            _add_kept(x_grad, kept_grad, channels, ctx.counts)
        down_grad = (hidden_grad.T @ x.flatten(0, -2)).to(downs[0].dtype)
        return x_grad.view_as(x), None, None, *down_grad.split([len(each) for each in downs])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(channels)
        ctx.counts, ctx.width = counts, x.shape[-1]
        return x.gather(-1, channels.expand(*x.shape[:-1], -1))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (channels,), kept_grad = ctx.saved_tensors, outer[0].flatten(0, -2)
        x_grad = kept_grad.new_zeros(len(kept_grad), ctx.width)
        _add_kept(x_grad, kept_grad, channels, ctx.counts)
        return x_grad.view(*outer[0].shape[:-1], -1), None, None


def _add_kept(x_grad: Tensor, kept_grad: Tensor, channels: Tensor, counts: Sequence[int]) -> None:
    """Add the kept channels' gradient (n, k) of all layers to that of their input (n, in), in place.

    Channels are distinct within a layer, not across layers: one by one this is exact, and deterministic on CUDA.
    """
    for indices, part in zip(channels.split(counts), kept_grad.split(counts, 1), strict=True):
        if x_grad.dtype == torch.float32:
            x_grad.index_add_(1, indices, part)
        else:  # where index_add_ is slower (benchmarks/layer_choices.py)
            x_grad[:, indices] += part


def _as_product(hidden_grad: Tensor, kept_grad: Tensor, down: Tensor, channels: Tensor) -> Tensor:
    """Return the same sum, (n, in), as one product: a kept channel is a row of `down` that holds a one.

    The compiler makes of an addition by index one of atomics, in an order that varies, and gathers in which each entry
    looks up where its gradient is took several times what their bytes do (docs/experiments.md, "a first card"). The
    zeros are multiplied too, `k / rank` of this product. What is added is exact, but where TF32 is asked for; and of a
    gradient that isn't finite, a whole row becomes so.
    """
    ones = channels[:, None] == torch.arange(down.shape[1], device=channels.device)
    return torch.cat([hidden_grad, kept_grad], 1) @ torch.cat([down, ones.to(down.dtype)])


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, kept: Tensor, up: Tensor, gamma: float, activation: str) -> Tensor:
        rank = hidden.shape[-1]
        inner = hidden.new_empty((*hidden.shape[:-1], up.shape[1]))
        torch.mul(ACTIVATIONS[activation](hidden), gamma, out=inner[..., :rank])
        torch.mul(kept, 1 - gamma, out=inner[..., rank:])
        ctx.save_for_backward(None if activation == "none" else hidden, inner, up)
        ctx.gamma, ctx.activation, ctx.rank = gamma, activation, rank
        return inner @ up.to(inner.dtype).T

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, inner, up = ctx.saved_tensors
        y_grad, leading, rank = outer[0].flatten(0, -2), outer[0].shape[:-1], ctx.rank
        inner_grad = y_grad @ up.to(y_grad.dtype)
        up_grad = (y_grad.T @ inner.flatten(0, -2)).to(up.dtype)
        if hidden is None:
            hidden_grad = inner_grad[:, :rank] * ctx.gamma
        else:
            hidden_grad = _DERIVATIVES[ctx.activation](inner_grad[:, :rank], hidden.flatten(0, -2)).mul_(ctx.gamma)
        kept_grad = inner_grad[:, rank:].mul_(1 - ctx.gamma)
        return hidden_grad.view(*leading, -1), kept_grad.view(*leading, -1), up_grad, None, None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
