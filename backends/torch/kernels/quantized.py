"""Products with frozen matrices in few bits (`lost.method.quantized`): unpacked for each pass, and never kept.

PyTorch's own products with packed matrices are private, and differ between devices; these are documented operations.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def quantized_linear(x: Tensor, words: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
    """Return x W^T (..., out) for x (..., in); only x has a gradient."""
    product: Tensor = _QuantizedLinear.apply(x, words, scales, biases, bits)
    return product


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, words: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(words, scales, biases)
        ctx.bits = bits
        return F.linear(x, _unpacked(x.dtype, words, scales, biases, bits))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        words, scales, biases = ctx.saved_tensors
        return outer[0] @ _unpacked(outer[0].dtype, words, scales, biases, ctx.bits), None, None, None, None


def _unpacked(dtype: torch.dtype, words: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
    """Return the matrix (out, in), computed in float32 and rounded once."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    numbers = (words.unsqueeze(-1) >> shifts).bitwise_and_((1 << bits) - 1)  # the sign's copies are cut off
    grouped = numbers.view(*scales.shape, -1).float()
    whole = grouped.mul_(scales.float().unsqueeze(-1)).add_(biases.float().unsqueeze(-1))
    return whole.view(len(words), -1).to(dtype)
