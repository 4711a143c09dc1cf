"""The head's loss in chunks of tokens, so that logits of all tokens are never held at once.

The chunk's gradient is computed while its logits are there: no logits are kept for, or computed again in, the backward
pass. Same values as `cross_entropy(linear(x, weight), targets, reduction="sum")`; faster than
`torch.nn.functional.linear_cross_entropy` with its chunks, measured in docs/experiments.md.
"""

from typing import Any

import torch
from torch import Tensor

from lost.planning.budget import logits_at_once

IGNORED = -100


def head_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the summed negative log-likelihood, a float32 scalar (float64 for a float64 x), natural log.

    Args:
        x: (n, hidden), the type that products are computed in.
        weight: (vocab, hidden), the head.
        targets: (n,) int64; predictions with target -100 aren't counted.
    """
    return _HeadLoss.apply(x, weight, targets)


@torch.no_grad()
def head_scores(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of each target, and whether it is the likeliest entry.

    Args:
        x: (n, hidden), the type that products are computed in.
        weight: (vocab, hidden), the head.
        targets: (n,) int64.

    Returns:
        (n,) float32 (float64 for a float64 x), 0 where the target is -100; and (n,) bool.
    """
    weight, wide = weight.to(x.dtype), torch.promote_types(x.dtype, torch.float32)
    nll, likeliest = [], []
    for part, wanted in _chunks(x, weight, targets):
        logits = part @ weight.T
        likeliest.append(logits.argmax(dim=-1) == wanted)
        scores = torch.log_softmax(logits, dim=-1, dtype=wide)
        nll.append(-scores.gather(1, wanted.clamp(min=0)[:, None])[:, 0].masked_fill_(wanted == IGNORED, 0.0))
    return torch.cat(nll), torch.cat(likeliest)


def _chunks(x: Tensor, weight: Tensor, targets: Tensor) -> zip:  # type: ignore[type-arg]
    rows = max(64, logits_at_once("torch", x.device.type) // len(weight))
    return zip(x.split(rows), targets.split(rows), strict=True)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x.device)
        head = weight.to(x.dtype)
        x_grad, weight_grad = torch.empty_like(x), torch.empty_like(weight)
        done = 0
        for part, wanted in _chunks(x, head, targets):
            counted, index = (wanted != IGNORED)[:, None], wanted.clamp(min=0)[:, None]
            logits = (part @ head.T).to(wide)
            top, chosen = logits.amax(1, keepdim=True), logits.gather(1, index)
            powers = logits.sub_(top).exp_()
            sums = powers.sum(1, keepdim=True)
            total += (sums.log() + top - chosen).mul_(counted).sum()
            # The gradient at the logits is softmax, less one at the target. Rows are divided by their sums after the
            # products, where they are shorter than the vocabulary.
            grad = powers.scatter_add_(1, index, -sums).to(x.dtype)
            scales = counted / sums
            x_grad[done : done + len(part)] = (grad @ head).mul_(scales)
            scaled = (part * scales).to(x.dtype)
            if weight.dtype == x.dtype:
                weight_grad.addmm_(grad.T, scaled, beta=1 if done else 0)  # 0: what is there isn't read
            elif done:
                weight_grad += grad.T @ scaled
            else:
                weight_grad.copy_(grad.T @ scaled)
            done += len(part)
            del logits, powers, grad  # before the next chunk's are made
        ctx.save_for_backward(x_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        x_grad, weight_grad = ctx.saved_tensors
        # In place: both belong to this call alone, and a copy of the head's gradient would be the step's peak.
        return x_grad.mul_(outer[0]), weight_grad.mul_(outer[0]), None
