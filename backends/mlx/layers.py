"""The projections' layers: one class a kind, with the core's parameter names.

A forward pass has two halves: `narrow` maps x (..., in) to the bottleneck, and `widen` maps that to y (..., out).
Activation checkpointing cuts between them. Weights are stored in `param_dtype` and cast to the input's type on use.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from lost.backends.mlx.arrays import ends
from lost.backends.mlx.kernels import group
from lost.backends.mlx.kernels.checkpointing import Reads, recomputed
from lost.backends.mlx.kernels.convolution import short_conv
from lost.backends.mlx.kernels.gather import kept
from lost.backends.mlx.kernels.rows import added, scaled
from lost.engine.registry import implementation
from lost.method.quantized import GROUP
from lost.projections import Projection
from lost.projections.adapters import Adapter as AdapterProjection
from lost.projections.sltrain import SlTrain as SlTrainProjection

Narrow = tuple[mx.array, ...]

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": nn.silu,
    "gelu": nn.gelu,
    "relu2": nn.relu2,
    "none": lambda x: x,
}


class _Frozen(set[str]):
    """Names without gradients, some permanently: unfreezing a parent module would otherwise train integers."""

    def __init__(self, names: Iterable[str]) -> None:
        self._always = frozenset(names)
        super().__init__(self._always)

    def clear(self) -> None:
        """Thaw the others."""
        self.intersection_update(self._always)

    def difference_update(self, *others: Iterable[object]) -> None:
        """Thaw these, except those frozen permanently."""
        super().difference_update(*others)
        self.update(self._always)


class Layer(nn.Module, ABC):
    """A layer with the tensors that its projection lists, zero until `Engine.load`; frozen ones are never trained."""

    opens: tuple[str, ...]
    """The tensors that the first half reads, where the layer has them; the second reads the others."""

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__()
        self.place, self.earlier = 0, projection.earlier_tokens  # in a block's cache; tokens that a convolution reads
        self._no_grad = _Frozen(suffix for suffix, tensor in projection.tensors().items() if not tensor.trained)
        for suffix, tensor in projection.tensors().items():
            self[suffix] = mx.zeros(tensor.shape, mx.int32 if tensor.integer else dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., in) to (..., out)."""
        return self.widen(*self.narrow(x))

    @abstractmethod
    def narrow(self, x: mx.array) -> Narrow:
        """Return the first half."""

    def widen(self, *parts: mx.array, before: Any = None) -> mx.array:
        """Return the second half, with the convolution and the bias if there are any.

        Args:
            parts: the first half.
            before: mlx-lm's cache of what a block's convolutions read last, a place for each of them.
        """
        if "conv" in self:
            parts = (self._convolved(parts[0], before), *parts[1:])
        return self._biased(self._widen(*parts))

    def _biased(self, y: mx.array) -> mx.array:
        return added(y, self.bias) if "bias" in self else y

    @abstractmethod
    def _widen(self, *parts: mx.array) -> mx.array:
        """Return the second half, without the convolution and the bias."""

    def _convolved(self, hidden: mx.array, before: Any) -> mx.array:
        taps = self.conv.astype(hidden.dtype).reshape(-1, hidden.shape[-1])
        last = None if before is None else before[self.place]
        if last is None:
            joined = mx.pad(hidden, [(0, 0), (self.earlier, 0), (0, 0)])
        else:
            joined = mx.concatenate([last, hidden], axis=1)
        if before is not None:
            before[self.place] = joined[:, -self.earlier :]
        return short_conv(joined, taps)


class Dense(Layer):
    """y = W x, all of it in the first half: there is no bottleneck."""

    opens = ("weight",)

    def narrow(self, x: mx.array) -> Narrow:
        """Return W x."""
        return (x @ self.weight.astype(x.dtype).T,)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return it unchanged."""
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
        hidden = parts[0] if self.activation == "none" else _activated(self.activation)(parts[0])
        return hidden @ self.up.astype(hidden.dtype).T


class SlTrain(Layer):
    """y = (scale up down + S) x, the weight composed in each pass and never kept, as in the authors' code."""

    opens = ("down", "up", "values")

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        assert isinstance(projection, SlTrainProjection)
        super().__init__(projection, dtype)
        self.scale = projection.scale

    def narrow(self, x: mx.array) -> Narrow:
        """Return W x."""
        return (mx.checkpoint(_composed_product)(x, self.down, self.up, self["values"], self.indices, self.scale),)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return it unchanged."""
        return parts[0]


def _composed_product(
    x: mx.array, down: mx.array, up: mx.array, values: mx.array, indices: mx.array, scale: float
) -> mx.array:
    up, down, values = (each.astype(x.dtype) for each in (up, down, values))
    weight = _times(up @ down, scale).flatten().at[mx.stop_gradient(indices)].add(values).reshape(len(up), -1)
    return x @ weight.T


class Lost(Layer):
    """y = up [gamma act(down x) ; (1 - gamma) x[channels]]: one product for the low-rank and the sparse part."""

    opens = ("down",)

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        super().__init__(projection, dtype)
        settings = projection.settings
        if not settings.learn_gamma:
            self.gamma = settings.gamma
        self.activation, self.activation_at = settings.activation, settings.activation_at
        self._is_hidden = mx.array(np.arange(self.up.shape[1]) < len(self.down))

    @property
    def known(self) -> bool:
        """Whether the kernels of `group` know this layer's mathematics."""
        plain = (
            self.activation in ("silu", "none")
            and self.activation_at == "low_rank"
            and "gamma" not in self.parameters()
        )
        return plain and (type(self).narrow, type(self)._widen) == (Lost.narrow, Lost._widen)

    @property
    def form(self) -> tuple[object, ...]:
        """What layers must have in common for one kernel to take them, where they are `known`."""
        gamma = self.gamma if self.known else None
        return self.down.shape, self.channels.shape, self.earlier, self.activation, self.known, gamma

    def narrow(self, x: mx.array) -> Narrow:
        """Return down x, and x[channels]."""
        return x @ self.down.astype(x.dtype).T, kept(x, self.channels)

    def widen(self, *parts: mx.array, before: Any = None) -> mx.array:
        """Return the second half; with the bias alone, where kernels of a group have made all else."""
        return super().widen(*parts, before=before) if len(parts) > 1 else self._biased(parts[0])

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return up [gamma act(down x) ; (1 - gamma) x[channels]], or with the activation elsewhere."""
        inputs = mx.concatenate(list(parts), axis=-1)
        inner = _mixed(self.activation, self.activation_at)(inputs, self._is_hidden, self.gamma)
        y = inner @ self.up.astype(inner.dtype).T
        return ACTIVATIONS[self.activation](y) if self.activation_at == "output" else y


class Adapter(Layer):
    """y = W x + scale up down x, of which the pair is trained."""

    opens = ("weight", "scales", "biases", "down")

    def __init__(self, projection: Projection, dtype: mx.Dtype) -> None:
        assert isinstance(projection, AdapterProjection)
        super().__init__(projection, dtype)
        self.scale, self.bits = projection.scale, projection.settings.bits

    def narrow(self, x: mx.array) -> Narrow:
        """Return W x, and scale down x."""
        return self._whole(x), _times(x @ self.down.astype(x.dtype).T, self.scale)

    def _whole(self, x: mx.array) -> mx.array:
        """Return W x."""
        if self.bits is None:
            return x @ self.weight.astype(x.dtype).T
        scales, biases, words = self.scales.astype(x.dtype), self.biases.astype(x.dtype), self.weight.view(mx.uint32)
        return mx.quantized_matmul(x, words, scales, biases, transpose=True, group_size=GROUP, bits=self.bits)

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return their sum, once the second one is multiplied by up."""
        return parts[0] + parts[1] @ self.up.astype(parts[1].dtype).T


class FixedPair(Adapter):
    """y = W x + up core down x, of which `core`, a matrix or a vector, is trained."""

    def _widen(self, *parts: mx.array) -> mx.array:
        """Return their sum, once the second one is multiplied by core and up."""
        hidden, core = parts[1], self.core.astype(parts[1].dtype)
        hidden = hidden @ core.T if core.ndim == 2 else scaled(hidden, core)
        return parts[0] + hidden @ self.up.astype(hidden.dtype).T


def _times(x: mx.array, factor: float) -> mx.array:
    """Return x * factor, multiplied in float32: MLX would round the factor to the type of x before."""
    return (x.astype(mx.float32) * factor).astype(x.dtype)


@cache
def _activated(name: str) -> Callable[[mx.array], mx.array]:
    return recomputed(ACTIVATIONS[name])


@cache
def _mixed(activation: str, activation_at: str) -> Callable[[mx.array, mx.array, mx.array | float], mx.array]:
    """Return the function that makes [gamma act(hidden) ; (1 - gamma) channels] of [hidden ; channels]."""
    act = ACTIVATIONS[activation]

    def mixed(inputs: mx.array, is_hidden: mx.array, gamma: mx.array | float) -> mx.array:
        # One entry a channel: gamma's gradient is then a sum of sums, on a CPU 50 times as accurate as a single sum.
        # In float32, as in `_times`.
        wide = gamma.astype(mx.float32) if isinstance(gamma, mx.array) else gamma
        scales = mx.where(is_hidden, wide, 1 - wide)
        if activation_at == "low_rank":
            read = mx.where(is_hidden, act(inputs), inputs)
        else:
            read = act(inputs) if activation_at == "inner" else inputs
        return (scales * read).astype(inputs.dtype)

    return recomputed(mixed)


class Group:
    """Layers that read the same, one or more. LOST layers have one product for all first halves.

    On Metal, kernels take LOST layers whole, if these have one shape inside.

    Attributes:
        layers: they themselves.
        fused: whether kernels take them.
        stacks: whether their outputs are wanted in one array, if they have one shape.
        given: of a step, tensors of all layers in one array, by suffix, `conv` as `metal` takes it; others are put
            together here.
    """

    def __init__(self, *layers: Layer, stacks: bool = False) -> None:
        self.layers, self.fused, self.given = layers, False, dict[str, mx.array]()
        self.stacks = stacks and not any("bias" in each for each in layers)
        self._lost = [each for each in layers if isinstance(each, Lost) and type(each).narrow is Lost.narrow]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What kernels want of all layers in one array."""
        return ("down", "conv", "up") if self.stacks else ("down", "conv")

    def fuse(self, fused: bool) -> None:
        """Have kernels take the layers, if they can."""
        forms = {each.form for each in self._lost}
        self.fused = fused and len(self._lost) == len(self.layers) and len(forms) == 1 and self._lost[0].known

    def narrow(self, x: mx.array, whole: bool = False) -> list[Narrow]:
        """Return the first halves.

        Args:
            x: (..., in).
            whole: whether kernels may make all of the layers' outputs but biases: no cache holds earlier tokens.
        """
        lost, watched = self._lost, any("narrow" in vars(each) for each in self.layers)  # by whoever looks at inputs
        if self.fused and whole and not watched:
            ups = [each.up.astype(x.dtype) for each in lost]
            return [(each,) for each in group.outputs(self._reads(x), ups, self.given.get("ups"))]
        if len(lost) < len(self.layers) or len(lost) == 1 or watched:
            return [each.narrow(x) for each in self.layers]
        downs = [each.down for each in lost]
        hidden = mx.split(x @ mx.concatenate(downs).astype(x.dtype).T, ends(downs), axis=-1)
        return [(part, kept(x, each.channels)) for part, each in zip(hidden, lost, strict=True)]

    def stacked(self, x: mx.array) -> mx.array | None:
        """Return the outputs in one array, (n, ..., out), where a step has all `up`s as one."""
        return group.stacked(self._reads(x), self.given["up"]) if "up" in self.given else None

    def _reads(self, x: mx.array) -> group.Reads:
        """Return what kernels read, but the `up`s."""
        first, taps = self._lost[0], None
        if first.earlier:
            taps = self._joined("conv")
            taps = taps if taps.ndim == 3 else taps.reshape(len(self._lost), -1)
        down = self._joined("down").reshape(-1, x.shape[-1]).astype(x.dtype)
        channels, activated = [each.channels for each in self._lost], first.activation != "none"
        return group.Reads(x, down, taps, channels, first.gamma, activated)

    def _joined(self, suffix: str) -> mx.array:
        return self.given[suffix] if suffix in self.given else mx.concatenate([each[suffix] for each in self.layers])


def opens(*layers: Layer) -> Reads:
    """Return the trained tensors that the first halves of layers read."""
    return [(each, [name for name in each.trainable_parameters() if name in each.opens]) for each in layers]


def closes(*layers: Layer) -> Reads:
    """Return the trained tensors that the second halves of layers read."""
    return [(each, [name for name in each.trainable_parameters() if name not in each.opens]) for each in layers]


def layer(projection: Projection, dtype: mx.Dtype) -> Layer:
    """Return the layer of a projection.

    Raises:
        BackendError: this backend doesn't implement its kind.
    """
    kind = projection.settings.kind
    cls: type[Layer] = implementation("projection.kind", kind, type(projection).layers, "mlx")
    return cls(projection, dtype)
