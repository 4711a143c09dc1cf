"""The projections' forward passes: one class a kind, its parameters named as the core names them.

Weights are kept in `param_dtype` and cast to the input's type where they are used. Shapes: x (..., in), y (..., out).
"""

import mlx.core as mx
import mlx.nn as nn

from lost.projections import Projection


class Layer(nn.Module):
    """Zeros for what the core lists; values come from `Engine.load`. Integers are never trained."""

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__()
        for suffix, tensor in projection.tensors().items():
            self[suffix] = mx.zeros(tensor.shape, mx.int32 if tensor.integer else dtype)
            if tensor.integer:
                self.freeze(recurse=False, keys=[suffix])


class Dense(Layer):
    """y = W x."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., in) to (..., out)."""
        return x @ self.weight.astype(x.dtype).T


class LowRank(Layer):
    """y = up down x."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., in) to (..., out)."""
        return x @ self.down.astype(x.dtype).T @ self.up.astype(x.dtype).T


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]]: one product for the low-rank and the sparse part."""

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__(projection, dtype)
        self.gamma, self.activated = projection.settings.gamma, projection.has_activation

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., in) to (..., out)."""
        hidden = x @ self.down.astype(x.dtype).T
        if self.activated:
            hidden = nn.silu(hidden)
        inner = mx.concatenate([self.gamma * hidden, (1 - self.gamma) * kept(x, self.channels)], axis=-1)
        return inner @ self.up.astype(x.dtype).T


def kept(x: mx.array, channels: mx.array) -> mx.array:
    """Return x[..., channels]: the fastest of three ways on a CPU (benchmarks/mlx_choices.py); on Metal, unmeasured."""
    return mx.take_along_axis(x, mx.broadcast_to(channels, (*x.shape[:-1], channels.size)), axis=-1)


KINDS: dict[str, type[Layer]] = {"dense": Dense, "lowrank": LowRank, "lost": Lost}


def layer(projection: Projection, dtype: mx.Dtype) -> Layer:
    """Return the module of a projection."""
    return KINDS[projection.settings.kind](projection, dtype)
