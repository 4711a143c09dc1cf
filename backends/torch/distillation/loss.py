"""The loss beside a teacher, in chunks of tokens as `kernels.loss` has it: no logits are held for all tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lost.backends.torch.kernels.loss import IGNORED, compiled, in_chunks
from lost.config import TeacherConfig
from lost.planning.memory.logits import logits_at_once

_BUFFERS = 4  # of a chunk's logits, where the loss without a teacher has one: a chunk is so much smaller


@dataclass(frozen=True)
class Teaching:
    """What a teacher predicts for n tokens: all of it, or its likeliest entries.

    Attributes:
        rows: its states (n, h), or the ids (n, k) int64 of the entries.
        other: its head (vocab, h), or the log-probabilities (n, k) of the entries.
        whole: whether it is all.
    """

    rows: Tensor
    other: Tensor
    whole: bool

    def chunk(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return both for some of the tokens."""
        return self.rows[rows], self.other if self.whole else self.other[rows]


def taught_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    teaching: Teaching,
    settings: TeacherConfig,
    z_loss: float = 0.0,
    fused: bool = False,
) -> Tensor:
    """Return the summed negative log-likelihood, and the summed divergence KL(teacher || student) at T, (2,).

    The gradient of the first is that of (1 - weight) times it, plus weight T^2 times the second; and that of `z_loss`.

    Args:
        x: as in `head_loss`.
        weight: as in `head_loss`.
        targets: as in `head_loss`: both sums are over the predictions that count.
        teaching: what a teacher predicts.
        settings: weight and T.
        z_loss: as in `head_loss`.
        fused: as in `head_loss`.
    """
    function: Callable[..., Any] = compiled(_loss_and_gradient) if fused else _loss_and_gradient
    step = partial(function, whole=teaching.whole, share=settings.weight, heat=settings.temperature, z_loss=z_loss)
    logits = logits_at_once("torch", x.device.type) // _BUFFERS
    return in_chunks(x, weight, targets, lambda rows, *chunk: step(*chunk, *teaching.chunk(rows)), logits)


def _loss_and_gradient(
    x: Tensor,
    head: Tensor,
    targets: Tensor,
    rows: Tensor,
    other: Tensor,
    whole: bool,
    share: float,
    heat: float,
    z_loss: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's two sums, the gradient of its logits (n, vocab), and which rows of it count, (n, 1)."""
    counted, index = (targets != IGNORED)[:, None], targets.clamp(min=0)[:, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    logits = (x @ head.T).to(wide)
    log_z = logits.logsumexp(1, keepdim=True)
    nll = log_z - logits.gather(1, index)
    student = logits / heat
    student = student - student.logsumexp(1, keepdim=True)
    divergence, meant = _from_all(student, rows, other, heat) if whole else _from_likeliest(student, rows, other)
    # Of the divergence, by the logits: (student - teacher) / T, which T^2 goes before.
    gradient = (student.exp() - meant).mul_(share * heat)
    if share < 1 or z_loss:
        gradient += (logits - log_z).exp_().mul_(1 - share + 2 * z_loss * log_z)
    gradient.scatter_add_(1, index, torch.full_like(nll, share - 1))
    sums = torch.cat([nll, divergence[:, None]], 1).mul_(counted).sum(0)
    return sums, gradient.to(x.dtype), counted.to(wide)


def _from_all(student: Tensor, states: Tensor, head: Tensor, heat: float) -> tuple[Tensor, Tensor]:
    """Return the divergence from a teacher (n,), and its probabilities (n, vocab).

    Args:
        student: log-probabilities, (n, vocab).
        states: the teacher's, (n, h).
        head: the teacher's, (vocab, h).
        heat: T.
    """
    teacher = torch.log_softmax((states @ head.T).to(student.dtype).div_(heat), dim=1)
    meant = teacher.exp()
    return teacher.sub_(student).mul_(meant).sum(1), meant


def _from_likeliest(student: Tensor, ids: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence where all entries but a teacher's likeliest are one, (n,), and probabilities (n, vocab).

    The rest is the teacher's together; among themselves they are as likely as the student has them.

    Args:
        student: log-probabilities, (n, vocab).
        ids: of the entries, (n, k).
        kept: their log-probabilities, (n, k).
    """
    kept = kept.to(student.dtype)
    if kept.shape[1] == student.shape[1]:  # there is no rest, and rounded probabilities would leave one
        meant = torch.zeros_like(student).scatter_(1, ids, kept.exp())
        return (kept.exp() * (kept - student.gather(1, ids))).sum(1), meant
    likely, least = kept.exp(), torch.finfo(student.dtype).tiny
    rest = (1 - likely.sum(1, keepdim=True)).clamp_(min=0)
    outside = student.exp().scatter(1, ids, 0.0)
    own_rest = outside.sum(1, keepdim=True).clamp_(min=least)
    divergence = (likely * (kept - student.gather(1, ids))).sum(1)
    divergence += (torch.xlogy(rest, rest) - rest * own_rest.log())[:, 0]
    return divergence, outside.mul_(rest / own_rest).scatter_(1, ids, likely)
