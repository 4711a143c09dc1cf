"""The head's loss in chunks of tokens, so that the logits of all tokens are never held at once.

A chunk's gradient is computed together with its loss, so that no logits are kept for the backward pass or recomputed
in it. Same values as the sum of `mlx.nn.losses.cross_entropy`.
"""

from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx

from lost.planning.memory.logits import logits_at_once


def head_loss(
    x: mx.array, weight: mx.array, targets: mx.array, mask: mx.array, z_loss: float = 0.0, trains_head: bool = True
) -> mx.array:
    """Return the summed negative log-likelihood, a float32 scalar, natural log.

    Its gradient is that of the sum plus `z_loss` times the summed squares of log Z, the logits' log-sum-exp.

    Args:
        x: (n, h), the type that products are computed in.
        weight: (vocab, h), the head.
        targets: (n,) int32.
        mask: (n,) bool, the predictions that are summed.
        z_loss: as in PaLM (arXiv 2204.02311, section 5), which has 1e-4.
        trains_head: whether the head's gradient is wanted; else it is zero.
    """
    extra = [mx.array(z_loss)] if z_loss else []
    return _LOSSES[trains_head](x, weight, targets, mask, *extra)[0]  # type: ignore[index]


def head_scores(
    x: mx.array, weight: mx.array, targets: mx.array, likeliest: bool = True
) -> tuple[mx.array, mx.array | None]:
    """Return the negative log-likelihood of each target, and whether it is the likeliest entry.

    Args:
        x: (n, h), the type that products are computed in.
        weight: (vocab, h), the head.
        targets: (n,) int32.
        likeliest: whether the latter is asked for: it takes a pass over the logits.

    Returns:
        (n,) float32; and (n,) bool, or None.
    """
    head = weight.astype(x.dtype)
    nll: list[mx.array] = []
    first: list[mx.array] = []
    for rows in chunks(len(x), len(head), at_once()):
        before = nll[-1:] + first[-1:]
        (part,) = mx.depends([x[rows]], before) if before else (x[rows],)  # one chunk after the other
        logits = part @ head.T
        if likeliest:
            first.append(mx.argmax(logits, axis=-1) == targets[rows])
        nll.append(mx.fast.cross_entropy(logits.astype(mx.float32), targets[rows]))
    return mx.concatenate(nll), mx.concatenate(first) if likeliest else None


def _loss_and_gradients(
    trains_head: bool, x: mx.array, weight: mx.array, targets: mx.array, mask: mx.array, *z_loss: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    entries = mx.arange(len(weight))

    def chunk(rows: slice, logits: mx.array) -> tuple[mx.array, mx.array]:
        labels, weights = targets[rows][:, None], mask[rows].astype(mx.float32)
        softmax = mx.softmax(logits, axis=-1)
        # A row's largest softmax is exp(its largest logit - its log-sum-exp), so one exp an entry is enough.
        log_sums = logits.max(axis=-1, keepdims=True) - mx.log(softmax.max(axis=-1, keepdims=True))
        nll = ((log_sums - mx.take_along_axis(logits, labels, axis=-1)) * weights[:, None]).sum()
        if z_loss:  # the softmax is the gradient of log Z
            softmax = softmax * (1 + 2 * z_loss[0] * log_sums)
        return nll, (softmax - (entries == labels)) * weights[:, None]

    return in_chunks(x, weight, chunk, at_once(), trains_head)


def in_chunks(
    x: mx.array,
    weight: mx.array,
    chunk: Callable[[slice, mx.array], tuple[mx.array, mx.array]],
    entries: int,
    trains_head: bool = True,
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the sum over all chunks of what a function returns first, and the gradients of x and weight.

    Args:
        x: as in `head_loss`.
        weight: as in `head_loss`.
        chunk: takes a chunk's place and its logits, (m, vocab) float32; returns what is summed, and their gradient.
        entries: logits in a chunk.
        trains_head: whether the gradient of weight is wanted; else it is zero.
    """
    head = weight.astype(x.dtype)
    total = mx.array(0.0)
    x_gradients: list[mx.array] = []
    weight_gradient = mx.zeros(weight.shape, mx.float32)
    for rows in chunks(len(x), len(head), entries):
        # One chunk after the other: without these dependencies MLX might hold all of them at once.
        sums_so_far = [weight_gradient] if trains_head else []
        (part,) = mx.depends([x[rows]], [total, *sums_so_far, *x_gradients[-1:]])
        sums, gradient = chunk(rows, (part @ head.T).astype(mx.float32))
        total, gradient = total + sums, gradient.astype(x.dtype)
        x_gradients.append(gradient @ head)
        if trains_head:
            weight_gradient = weight_gradient + (gradient.T @ part).astype(mx.float32)
    return total, mx.concatenate(x_gradients), weight_gradient.astype(weight.dtype)


def scaled(
    primals: list[mx.array], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    """Return the gradients that came with a loss, times what comes from outside for the first of its sums."""
    _, x_gradient, weight_gradient = outputs
    outer = cotangents[0] if cotangents[0].ndim == 0 else cotangents[0][0]
    zeros = (mx.zeros_like(each) for each in primals[2:])
    return x_gradient * outer.astype(x_gradient.dtype), weight_gradient * outer.astype(weight_gradient.dtype), *zeros


_LOSSES = {trains_head: mx.custom_function(partial(_loss_and_gradients, trains_head)) for trains_head in (True, False)}
for function in _LOSSES.values():
    function.vjp(scaled)


def log_softmax(scores: mx.array) -> mx.array:
    """Return log-probabilities (..., vocab); MLX's own takes each row's largest off before, in two more passes."""
    return scores - scores.logsumexp(axis=-1, keepdims=True)


def at_once() -> int:
    """Return how many logits are made at a time, on the default device."""
    return logits_at_once("mlx", mx.default_device().type.name)


def chunks(count: int, vocab: int, entries: int) -> Iterator[slice]:
    """Yield the places of so many predictions' chunks, of at most so many logits each, or of 64 predictions."""
    rows = max(64, entries // vocab)
    return (slice(first, first + rows) for first in range(0, count, rows))
