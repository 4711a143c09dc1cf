"""RMSNorm, SwiGLU's product and rotary positions; autograd would save intermediate results and launch more kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight in x's dtype, computed in float32 where that is wider (arXiv 1910.07467).

    Args:
        x: (..., h).
        weight: (h,).
        eps: added to the mean square.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _RmsNorm.apply(x, weight, eps)
    wide = torch.promote_types(x.dtype, torch.float32)  # elsewhere one fused kernel, which saves as little
    return F.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up (Shazeer, arXiv 2002.05202); the SiLU is recomputed in the backward pass.

    Args:
        gate: (..., m).
        up: (..., m).
    """
    return F.silu(gate) * up if torch.compiler.is_compiling() else _SwiGlu.apply(gate, up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate by position, the two halves of d being the pairs (Hugging Face's convention).

    Args:
        x: (b, s, heads, d): as the products leave it. Transposed before, it would be copied in both passes.
        cos: (s, d / 2).
        sin: (s, d / 2).
    """
    if not torch.compiler.is_compiling():
        return _Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(outer[0] * up, gate), F.silu(gate).mul_(outer[0])


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        values = x.to(wide)
        squares = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (values * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = (x.to(scale.dtype) * scale).flatten(0, -2)
        y_grad = outer[0].to(scale.dtype).flatten(0, -2)
        shares = y_grad * normed
        wide_weight = weight.to(scale.dtype)
        along = (shares @ wide_weight).div_(x.shape[-1])
        x_grad = (y_grad * wide_weight).sub_(normed.mul_(along[:, None])).mul_(scale.flatten(0, -2))
        return x_grad.view_as(x).to(x.dtype), shares.sum(0).to(weight.dtype), None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(outer[0], cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    halves = x.unflatten(-1, (2, -1))
    rotated = halves * cos[:, None, None]
    rotated[..., 0, :].addcmul_(halves[..., 1, :], sin[:, None], value=-sign)
    rotated[..., 1, :].addcmul_(halves[..., 0, :], sin[:, None], value=sign)
    return rotated.flatten(-2)
