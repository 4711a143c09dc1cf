"""The projections' forward passes: one class a kind, its parameters named as the core names them.

Each pass has two halves: `narrow`, x (..., in) to what is small, and `widen`, that to y (..., out). What a model keeps
for the backward pass is decided between them. Weights are kept in `param_dtype` and cast to the input's type where
they are used.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import mlx.core as mx
import mlx.nn as nn

from lost.backends.mlx.kernels.checkpointing import Reads
from lost.engine.registry import implementation
from lost.projections import Projection
from lost.projections.sltrain import SlTrain as SlTrainProjection

Narrow = tuple[mx.array, ...]

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": nn.silu,
    "gelu": nn.gelu,
    "relu2": nn.relu2,
    "none": lambda x: x,
}


class _Frozen(set[str]):
    """Names without gradients, some of them for good: `unfreeze` of a module around would give integers gradients."""

    def __init__(self, names: Iterable[str]) -> None:
        self._always = frozenset(names)
        super().__init__(self._always)

    def clear(self) -> None:
        """Thaw the others."""
        self.intersection_update(self._always)

    def difference_update(self, *others: Iterable[object]) -> None:
        """Thaw these, but for those frozen for good."""
        super().difference_update(*others)
        self.update(self._always)


class Layer(nn.Module, ABC):
    """Zeros for what the core lists; values come from `Engine.load`. Integers are never trained."""

    opens: tuple[str, ...]
    """Which trained tensors the first half reads; the second reads the others."""

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__()
        self._no_grad = _Frozen(suffix for suffix, tensor in projection.tensors().items() if tensor.integer)
        for suffix, tensor in projection.tensors().items():
            self[suffix] = mx.zeros(tensor.shape, mx.int32 if tensor.integer else dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., in) to (..., out)."""
        return self.widen(*self.narrow(x))

    @abstractmethod
    def narrow(self, x: mx.array) -> Narrow:
        """Return the first half."""

    def widen(self, *parts: mx.array) -> mx.array:
        """Return the second half, with the bias if there is one."""
        y = self._widen(*parts)
        return y + self.bias.astype(y.dtype) if "bias" in self else y

    @abstractmethod
    def _widen(self, *parts: mx.array) -> mx.array:
        """Return the second half, without the bias."""


class Dense(Layer):
    """y = W x; nothing about it is narrow."""

    opens = ("weight",)

    def narrow(self, x: mx.array) -> Narrow:
        """Return W x."""
        return (x @ self.weight.astype(x.dtype).T,)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return it as it is."""
        return parts[0]


class LowRank(Layer):
    """y = up act(down x): CoLA, and without activation the plain low-rank baseline."""

    opens = ("down",)

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__(projection, dtype)
        self.activation = projection.settings.activation if projection.has_activation else "none"

    def narrow(self, x: mx.array) -> Narrow:
        """Return down x."""
        return (x @ self.down.astype(x.dtype).T,)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return up act(down x)."""
        hidden = ACTIVATIONS[self.activation](parts[0])
        return hidden @ self.up.astype(hidden.dtype).T


class SlTrain(Layer):
    """y = (scale up down + S) x, the weight put together in each pass and never kept, as SLTrain's authors do it."""

    opens = ("down", "up", "values")

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        assert isinstance(projection, SlTrainProjection)
        super().__init__(projection, dtype)
        self.scale = projection.scale

    def narrow(self, x: mx.array) -> Narrow:
        """Return W x."""
        return (mx.checkpoint(_together_times)(x, self.down, self.up, self["values"], self.indices, self.scale),)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return it as it is."""
        return parts[0]


def _together_times(
    x: mx.array, down: mx.array, up: mx.array, values: mx.array, indices: mx.array, scale: float
) -> mx.array:
    weight = (up @ down * scale).flatten().at[mx.stop_gradient(indices)].add(values).reshape(len(up), -1)
    return x @ weight.astype(x.dtype).T


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]]: one product for the low-rank and the sparse part."""

    opens = ("down",)

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__(projection, dtype)
        settings = projection.settings
        if not settings.learn_gamma:
            self.gamma = settings.gamma
        self.activation, self.activation_at = settings.activation, settings.activation_at

    def narrow(self, x: mx.array) -> Narrow:
        """Return down x, and x[channels]."""
        return x @ self.down.astype(x.dtype).T, kept(x, self.channels)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere."""
        hidden, channels = parts
        act, gamma, rest = ACTIVATIONS[self.activation], self.gamma, 1 - self.gamma
        if isinstance(gamma, mx.array):
            # As many as they weigh: the gradient is then a sum of sums, on a CPU 50 times as exact as one sum over all.
            gamma = mx.broadcast_to(gamma.astype(hidden.dtype), hidden.shape[-1:])
            rest = mx.broadcast_to(rest.astype(hidden.dtype), channels.shape[-1:])
        if self.activation_at != "output":
            hidden = act(hidden)
        if self.activation_at == "inner":
            channels = act(channels)
        inner = mx.concatenate([gamma * hidden, rest * channels], axis=-1)
        y = inner @ self.up.astype(inner.dtype).T
        return act(y) if self.activation_at == "output" else y


def narrow(layers: Sequence[Layer], x: mx.array) -> list[Narrow]:
    """Return the first halves of layers that read the same x, LOST ones by one product and one gather.

    Args:
        layers: one or more.
        x: (..., in).
    """
    lost = [each for each in layers if isinstance(each, Lost)]
    if len(lost) < len(layers) or len(lost) == 1:
        return [each.narrow(x) for each in layers]
    downs, channels = [each.down for each in lost], [each.channels for each in lost]
    hidden = mx.split(x @ mx.concatenate(downs).astype(x.dtype).T, _ends(downs), axis=-1)
    return list(zip(hidden, mx.split(kept(x, mx.concatenate(channels)), _ends(channels), axis=-1), strict=True))


def kept(x: mx.array, channels: mx.array) -> mx.array:
    """Return x[..., channels]: the fastest of three ways on a CPU (benchmarks/mlx_choices.py); on Metal, unmeasured."""
    return mx.take_along_axis(x, mx.broadcast_to(channels, (*x.shape[:-1], channels.size)), axis=-1)


def _ends(arrays: Sequence[mx.array]) -> list[int]:
    """Return where each but the last ends, one after the other."""
    return list(accumulate(len(each) for each in arrays[:-1]))


def opens(*layers: Layer) -> Reads:
    """Return what the first halves of layers read."""
    return [(each, each.opens) for each in layers]


def closes(*layers: Layer) -> Reads:
    """Return what the second halves of layers read."""
    return [(each, [name for name in each.trainable_parameters() if name not in each.opens]) for each in layers]


KINDS: dict[str, type[Layer]] = {"dense": Dense, "lowrank": LowRank, "cola": LowRank, "sltrain": SlTrain, "lost": Lost}


def layer(projection: Projection, dtype: mx.Dtype) -> Layer:
    """Return the module of a projection.

    Raises:
        BackendError: this backend has none for its kind.
    """
    kind = projection.settings.kind
    made: type[Layer] = KINDS.get(kind) or implementation("projection.kind", kind, type(projection).layers, "mlx")
    return made(projection, dtype)
