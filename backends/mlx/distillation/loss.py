"""The loss beside a teacher, in chunks of tokens as `kernels.loss` has it: no logits are held for all tokens."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import mlx.core as mx

from lost.backends.mlx.kernels.loss import at_once, in_chunks, log_softmax, scaled
from lost.config import TeacherConfig

_BUFFERS = 4  # of a chunk's logits, where the loss without a teacher has one: a chunk is so much smaller
_LEAST = 1e-37


def taught_loss(
    x: mx.array,
    weight: mx.array,
    targets: mx.array,
    mask: mx.array,
    teaching: Sequence[mx.array],
    settings: TeacherConfig,
    z_loss: float = 0.0,
    trains_head: bool = True,
) -> mx.array:
    """Return the summed negative log-likelihood, and the summed divergence KL(teacher || student) at T, (2,).

    The gradient of the first is that of (1 - weight) times it, plus weight T^2 times the second; and that of `z_loss`.

    Args:
        x: as in `head_loss`.
        weight: as in `head_loss`.
        targets: as in `head_loss`.
        mask: as in `head_loss`: both sums are over these.
        teaching: what a teacher predicts: its states (n, h) and its head (vocab, h); or of its likeliest entries the
            ids (n, k) int32, and their log-probabilities (n, k).
        settings: weight and T.
        z_loss: as in `head_loss`.
        trains_head: as in `head_loss`.
    """
    function = _function(settings.weight, settings.temperature, z_loss, trains_head)
    return function(x, weight, targets, mask, *teaching)[0]


@cache
def _function(share: float, heat: float, z_loss: float, trains_head: bool) -> Callable[..., Any]:
    """Return the loss, and the gradients that come with it, as a function that MLX differentiates by `scaled`."""
    function = mx.custom_function(partial(_loss_and_gradients, share, heat, z_loss, trains_head))
    function.vjp(scaled)
    return function


def _loss_and_gradients(
    share: float,
    heat: float,
    z_loss: float,
    trains_head: bool,
    x: mx.array,
    weight: mx.array,
    targets: mx.array,
    mask: mx.array,
    rows_of: mx.array,
    other: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    entries, whole = mx.arange(len(weight)), rows_of.dtype != mx.int32

    def chunk(rows: slice, logits: mx.array) -> tuple[mx.array, mx.array]:
        labels, counted = targets[rows][:, None], mask[rows].astype(mx.float32)[:, None]
        log_z = logits.logsumexp(axis=-1, keepdims=True)
        nll = log_z - mx.take_along_axis(logits, labels, axis=-1)
        student = log_softmax(logits / heat)
        if whole:
            divergence, meant = _from_all(student, rows_of[rows], other, heat)
        else:
            divergence, meant = _from_likeliest(student, rows_of[rows], other[rows])
        # Of the divergence, by the logits: (student - teacher) / T, which T^2 goes before.
        gradient = (mx.exp(student) - meant) * (share * heat)
        if share < 1 or z_loss:
            gradient = gradient + mx.exp(logits - log_z) * (1 - share + 2 * z_loss * log_z)
        gradient = gradient - (1 - share) * (entries == labels)
        sums = (mx.concatenate([nll, divergence], axis=-1) * counted).sum(axis=0)
        return sums, gradient * counted

    return in_chunks(x, weight, chunk, at_once() // _BUFFERS, trains_head)


def _from_all(student: mx.array, states: mx.array, head: mx.array, heat: float) -> tuple[mx.array, mx.array]:
    """Return the divergence from a teacher (n, 1), and its probabilities (n, vocab).

    Args:
        student: log-probabilities, (n, vocab).
        states: the teacher's, (n, h).
        head: the teacher's, (vocab, h).
        heat: T.
    """
    teacher = log_softmax((states @ head.T).astype(mx.float32) / heat)
    meant = mx.exp(teacher)
    return (meant * (teacher - student)).sum(axis=-1, keepdims=True), meant


def _from_likeliest(student: mx.array, ids: mx.array, kept: mx.array) -> tuple[mx.array, mx.array]:
    """Return the divergence where all entries but a teacher's likeliest are one, (n, 1), and probabilities (n, vocab).

    The rest is the teacher's together; among themselves they are as likely as the student has them.

    Args:
        student: log-probabilities, (n, vocab).
        ids: of the entries, (n, k).
        kept: their log-probabilities, (n, k).
    """
    likely = mx.exp(kept)
    if kept.shape[1] == student.shape[1]:  # there is no rest, and rounded probabilities would leave one
        meant = mx.put_along_axis(mx.zeros_like(student), ids, likely, axis=-1)
        return (likely * (kept - mx.take_along_axis(student, ids, axis=-1))).sum(axis=-1, keepdims=True), meant
    rest = mx.maximum(1 - likely.sum(axis=-1, keepdims=True), 0)
    outside = mx.put_along_axis(mx.exp(student), ids, mx.array(0.0), axis=-1)
    own_rest = mx.maximum(outside.sum(axis=-1, keepdims=True), _LEAST)
    divergence = (likely * (kept - mx.take_along_axis(student, ids, axis=-1))).sum(axis=-1, keepdims=True)
    divergence = divergence + rest * (mx.log(mx.maximum(rest, _LEAST)) - mx.log(own_rest))
    return divergence, mx.put_along_axis(outside * (rest / own_rest), ids, likely, axis=-1)
