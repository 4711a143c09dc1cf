"""The head's loss in chunks of tokens, so that the logits of all tokens are never held at once.

A chunk's gradient is computed together with its loss, so that no logits are kept for the backward pass or recomputed
in it. Same values as `cross_entropy(linear(x, weight), targets, reduction="sum")`; faster than
`torch.nn.functional.linear_cross_entropy` with its chunks, measured in docs/experiments.md.

On CUDA PyTorch's compiler makes of all that is between the products one kernel, which reads a chunk's logits and writes
their gradient, both in the products' type. A Triton kernel of ours, or Liger's, would touch as much memory.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lost.planning.memory.logits import logits_at_once

IGNORED = -100


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, fused: bool = False) -> Tensor:
    """Return the summed negative log-likelihood, a float32 scalar (float64 for a float64 x), natural log.

    Its gradient is that of the sum plus `z_loss` times the summed squares of log Z, the logits' log-sum-exp.

    Args:
        x: (n, hidden), the type that products are computed in.
        weight: (vocab, hidden), the head.
        targets: (n,) int64; predictions with target -100 aren't counted.
        z_loss: as in PaLM (arXiv 2204.02311, section 5), which has 1e-4.
        fused: whether PyTorch's compiler makes one kernel of what is between the products.
    """
    function: Callable[..., Any] = compiled(_loss_and_gradient) if fused else _loss_and_gradient
    at_once = logits_at_once("torch", x.device.type)
    return in_chunks(x, weight, targets, lambda rows, *chunk: function(*chunk, z_loss), at_once)


def in_chunks(x: Tensor, weight: Tensor, targets: Tensor, loss_and_gradient: Callable[..., Any], logits: int) -> Tensor:
    """Return the sums over all chunks of what a function returns first; the gradient of the first of these is its own.

    Args:
        x: as in `head_loss`.
        weight: as in `head_loss`.
        targets: as in `head_loss`.
        loss_and_gradient: takes a chunk's place as a slice, its x, the head in x's type, and its targets; returns what
            is summed, the gradient of the chunk's logits (m, vocab), and a scale that its rows lack, (m, 1).
        logits: entries in a chunk.
    """
    return _HeadLoss.apply(x, weight, targets, loss_and_gradient, logits)


@torch.no_grad()
def head_scores(x: Tensor, weight: Tensor, targets: Tensor, likeliest: bool = True) -> tuple[Tensor, Tensor | None]:
    """Return the negative log-likelihood of each target, and whether it is the likeliest entry.

    Args:
        x: (n, hidden), the type that products are computed in.
        weight: (vocab, hidden), the head.
        targets: (n,) int64.
        likeliest: whether the latter is asked for: it takes a pass over the logits.

    Returns:
        (n,) float32 (float64 for a float64 x), 0 where the target is -100; and (n,) bool, or None.
    """
    weight, wide = weight.to(x.dtype), torch.promote_types(x.dtype, torch.float32)
    nll, first = [], []
    for _, part, labels in _chunks(x, weight, targets, logits_at_once("torch", x.device.type)):
        logits = part @ weight.T
        if likeliest:
            first.append(logits.argmax(dim=-1) == labels)
        scores = torch.log_softmax(logits, dim=-1, dtype=wide)
        nll.append(-scores.gather(1, labels.clamp(min=0)[:, None])[:, 0].masked_fill_(labels == IGNORED, 0.0))
    return torch.cat(nll), torch.cat(first) if likeliest else None


def chunks(count: int, vocab: int, logits: int) -> Iterator[slice]:
    """Yield the places of so many predictions' chunks, of at most so many logits each, or of 64 predictions."""
    most = max(64, logits // vocab)
    size = -(-count // -(-count // most))  # as equal as can be: each size is compiled for itself
    return (slice(first, first + size) for first in range(0, count, size))


def _chunks(x: Tensor, weight: Tensor, targets: Tensor, logits: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    for rows in chunks(len(x), len(weight), logits):
        yield rows, x[rows], targets[rows]


def _loss_and_gradient(x: Tensor, head: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's summed nll, and the gradient of its logits (n, vocab), whose rows lack a scale each, (n, 1).

    Products with it are scaled instead, whose rows are shorter than the vocabulary.
    """
    counted, index = (targets != IGNORED)[:, None], targets.clamp(min=0)[:, None]
    logits = (x @ head.T).to(torch.promote_types(x.dtype, torch.float32))
    top, score = logits.amax(1, keepdim=True), logits.gather(1, index)
    powers = logits.sub_(top).exp_()
    sums = powers.sum(1, keepdim=True)
    log_z = sums.log() + top
    total = (log_z - score).mul_(counted).sum()
    # The gradient of the logits is their softmax, minus 1 at the target, and that of log Z is their softmax.
    if z_loss:
        powers.mul_(1 + 2 * z_loss * log_z)
    if torch.compiler.is_compiling():  # an addition by index would be a kernel of its own, with atomics
        at_target = torch.arange(powers.shape[1], device=powers.device) == index
        powers = torch.where(at_target, powers - sums, powers)
    else:
        powers.scatter_add_(1, index, -sums)
    return total, powers.to(x.dtype), counted / sums


@cache
def compiled(loss_and_gradient: Callable[..., Any]) -> Callable[..., Any]:
    """Return a chunk's arithmetic as PyTorch's compiler makes it, once for each function."""
    return torch.compile(loss_and_gradient, dynamic=False)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, loss_and_gradient: Callable[..., Any], logits: int
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        head = weight.to(x.dtype)
        x_grad, weight_grad = torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for rows, part, labels in _chunks(x, head, targets, logits):
            sums, grad, scales = loss_and_gradient(rows, part, head, labels)
            total = total + sums
            x_grad[rows] = (grad @ head).mul_(scales)
            if weight_grad is None:
                continue
            scaled = (part * scales).to(x.dtype)
            if weight.dtype == x.dtype:
                weight_grad.addmm_(grad.T, scaled, beta=1 if rows.start else 0)  # 0: ignores the uninitialized values
            elif rows.start:
                weight_grad += grad.T @ scaled
            else:
                weight_grad.copy_(grad.T @ scaled)
            del grad  # before the next chunk allocates its own
        ctx.save_for_backward(x_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x_grad, weight_grad = ctx.saved_tensors
        scale = outer[0].flatten()[0]
        # In place: nothing else holds them, and a copy of the head's gradient would set the step's peak memory.
        return x_grad.mul_(scale), None if weight_grad is None else weight_grad.mul_(scale), None, None, None
