"""The head's loss in chunks of tokens, so that the logits of all tokens are never held at once.

A chunk's gradient is computed together with its loss, so that no logits are kept for the backward pass or recomputed
in it. Same values as the sum of `mlx.nn.losses.cross_entropy`.
"""

from collections.abc import Iterator

import mlx.core as mx

from lost.planning.budget import logits_at_once


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
    compute = _loss_and_gradients if trains_head else _loss_and_input_gradient
    return compute(x, weight, targets, mask, *extra)[0]  # type: ignore[index]


def head_scores(x: mx.array, weight: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Return the negative log-likelihood of each target, and whether it is the likeliest entry.

    Args:
        x: (n, h), the type that products are computed in.
        weight: (vocab, h), the head.
        targets: (n,) int32.

    Returns:
        (n,) float32, and (n,) bool.
    """
    head = weight.astype(x.dtype)
    nll: list[mx.array] = []
    likeliest: list[mx.array] = []
    for rows in _chunks(x, head):
        before = nll[-1:] + likeliest[-1:]
        (part,) = mx.depends([x[rows]], before) if before else (x[rows],)  # one chunk after the other
        logits = part @ head.T
        likeliest.append(mx.argmax(logits, axis=-1) == targets[rows])
        nll.append(mx.fast.cross_entropy(logits.astype(mx.float32), targets[rows]))
    return mx.concatenate(nll), mx.concatenate(likeliest)


@mx.custom_function
def _loss_and_gradients(*primals: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    return _in_chunks(True, *primals)


@mx.custom_function
def _loss_and_input_gradient(*primals: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    return _in_chunks(False, *primals)


def _in_chunks(
    trains_head: bool, x: mx.array, weight: mx.array, targets: mx.array, mask: mx.array, *z_loss: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the loss, and the gradients of x and of the head, which is zero where it isn't wanted."""
    head = weight.astype(x.dtype)
    total = mx.array(0.0)
    x_gradients: list[mx.array] = []
    weight_gradient = mx.zeros(weight.shape, mx.float32)
    entries = mx.arange(len(weight))
    for rows in _chunks(x, head):
        # One chunk after the other: without these dependencies MLX might hold all of them at once.
        (part,) = mx.depends([x[rows]], [total, weight_gradient, *x_gradients[-1:]])
        labels, weights = targets[rows][:, None], mask[rows].astype(mx.float32)
        logits = (part @ head.T).astype(mx.float32)
        softmax = mx.softmax(logits, axis=-1)
        # A row's largest softmax is exp(its largest logit - its log-sum-exp), so one exp an entry is enough.
        log_sums = logits.max(axis=-1, keepdims=True) - mx.log(softmax.max(axis=-1, keepdims=True))
        total = total + ((log_sums - mx.take_along_axis(logits, labels, axis=-1)) * weights[:, None]).sum()
        if z_loss:  # the softmax is the gradient of log Z
            softmax = softmax * (1 + 2 * z_loss[0] * log_sums)
        gradient = ((softmax - (entries == labels)) * weights[:, None]).astype(x.dtype)
        x_gradients.append(gradient @ head)
        if trains_head:
            weight_gradient = weight_gradient + (gradient.T @ part).astype(mx.float32)
    return total, mx.concatenate(x_gradients), weight_gradient.astype(weight.dtype)


def _scaled(
    primals: list[mx.array], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    _, x_gradient, weight_gradient = outputs
    outer = cotangents[0]
    zeros = (mx.zeros_like(each) for each in primals[2:])
    return x_gradient * outer.astype(x_gradient.dtype), weight_gradient * outer.astype(weight_gradient.dtype), *zeros


for function in (_loss_and_gradients, _loss_and_input_gradient):
    function.vjp(_scaled)


def _chunks(x: mx.array, head: mx.array) -> Iterator[slice]:
    rows = max(64, logits_at_once("mlx", mx.default_device().type.name) // len(head))
    return (slice(first, first + rows) for first in range(0, len(x), rows))
