"""What the layers of `candidates.py` compute, in PyTorch."""

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor as TorchTensor

from lost.backends.torch import layers as torch_layers
from lost.backends.torch.kernels.lost import ACTIVATIONS as TORCH_ACTIVATIONS
from lost.backends.torch.layers import Layer
from lost.backends.torch.model import Block
from lost.projections import Projection


class TorchPaired(Layer):
    """The pair alone."""

    down: TorchTensor
    up: TorchTensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.act = TORCH_ACTIVATIONS[projection.settings.activation]

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return down x."""
        return (F.linear(x, self.down.to(x.dtype)),)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return F.linear(self.act(parts[0]), self.up.to(parts[0].dtype))


class TorchComplemented(TorchPaired):
    """The pair and a complement, whose product is made in `narrow`, from the input."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return down x and C x."""
        return *super().narrow(x), self.add(x)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, added = parts
        return super()._widen(hidden) + added

    @abstractmethod
    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""


class TorchEntries(TorchComplemented):
    """Entries, as a dense product."""

    values: TorchTensor
    indices: TorchTensor

    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""
        shape = (len(self.up), self.down.shape[1])
        weight = self.values.new_zeros(math.prod(shape)).index_copy(0, self.indices.long(), self.values)
        return F.linear(x, weight.view(shape).to(x.dtype))


class TorchBlocks(TorchComplemented):
    """Blocks, as a batched product."""

    blocks: TorchTensor

    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""
        count, _, columns = self.blocks.shape
        groups = x.reshape(-1, columns, count).permute(2, 0, 1)
        return (groups @ self.blocks.to(x.dtype).mT).transpose(0, 1).reshape(*x.shape[:-1], -1)


class TorchNormed(torch_layers.Lost):
    """The norm, in `widen`."""

    norm: TorchTensor

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        return super()._widen(F.rms_norm(hidden, hidden.shape[-1:], self.norm, 1e-6), kept)


class TorchCrossing(torch_layers.Lost):
    """The crossing, of features after the activation, kept by the projection's name within its block."""

    crossing: TorchTensor
    crossed: dict[str, TorchTensor] = {}  # noqa: RUF012 - of the pass under way

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        _, _, block, self.place = projection.name.split(".", 3)
        self.first = block == "0"

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        if not self.first:
            hidden = hidden + self.crossing * self.crossed[self.place]
        hidden = self.prepared(hidden)
        self.crossed[self.place] = TORCH_ACTIVATIONS[self.activation](hidden)
        return super()._widen(hidden, kept)

    def prepared(self, hidden: TorchTensor) -> TorchTensor:
        """Return what the activation is given."""
        return hidden


class TorchLax(TorchCrossing):
    """The crossing with its norm."""

    norm: TorchTensor

    def prepared(self, hidden: TorchTensor) -> TorchTensor:
        """Return the sum, normed."""
        return F.rms_norm(hidden, hidden.shape[-1:], self.norm, 1e-6)


class TorchGated(TorchPaired):
    """The gate."""

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        gate, passed = parts[0].chunk(2, dim=-1)
        return F.linear(self.act(gate) * passed, self.up.to(gate.dtype))


def filtered(x: TorchTensor, taps: TorchTensor) -> TorchTensor:
    """Return x (b, s, n) and, weighted by `taps` (2 n), what it was one and two tokens earlier."""
    before = F.pad(x, (0, 0, 2, 0))
    one, two = taps.to(x.dtype).chunk(2)
    return x + one * before[:, 1:-1] + two * before[:, :-2]


class TorchShifted(TorchPaired):
    """The filter."""

    taps: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return the filtered down x."""
        return (filtered(*super().narrow(x), self.taps),)


class TorchShiftedLost(torch_layers.Lost):
    """The filter on the bottleneck; kept channels are the present token's."""

    taps: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return the filtered down x, and the kept channels."""
        hidden, kept = super().narrow(x)
        return filtered(hidden, self.taps), kept


class TorchShiftedDense(torch_layers.Dense):
    """The filter, on the input."""

    taps: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return W x, of the filtered input."""
        return super().narrow(filtered(x, self.taps))


class TorchShiftedInput(torch_layers.Lost):
    """The filter, on the input."""

    taps: TorchTensor
    filtered: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return the first half of LOST, of the filtered input."""
        TorchShiftedInput.filtered = filtered(x, self.taps)
        return super().narrow(self.filtered)


class TorchSharedInput(torch_layers.Lost):
    """That input."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return the first half of LOST, of the input that was filtered last."""
        return super().narrow(TorchShiftedInput.filtered)


class TorchEarlier(torch_layers.Lost):
    """The kept channels of the token before."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return down x, and the kept channels one token earlier."""
        hidden, kept = super().narrow(x)
        return hidden, F.pad(kept, (0, 0, 1, 0))[:, :-1]


class TorchJoint(TorchPaired):
    """The bottleneck of the pass under way, activated once for all."""

    hidden: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return act(down x)."""
        TorchJoint.hidden = self.act(*super().narrow(x))
        return (TorchJoint.hidden,)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return F.linear(parts[0], self.up.to(parts[0].dtype))


class TorchJoined(TorchJoint):
    """What the layer before it in this block had."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return that."""
        return (TorchJoint.hidden,)


class TorchReselected(torch_layers.Lost):
    """The swaps: a third of the channels at first, by a cosine none after 750 steps. Momenta stay: they soon fade."""

    every, until, share = 50, 750, 0.3

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.passes, self.input, self.scores = 0, torch.empty(0), torch.empty(0)

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return both parts, after the swap that is due."""
        if torch.is_grad_enabled():
            self.passes += 1
            if len(self.scores):
                self.swap()
            self.input = x.detach() if self.passes % self.every == 0 and self.passes <= self.until else torch.empty(0)
        return super().narrow(x)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        y = super()._widen(*parts)
        if torch.is_grad_enabled() and len(self.input):
            y.register_hook(self.score)
        return y

    def score(self, gradient: TorchTensor) -> None:
        """Take the norm of each channel's column in the gradient of a dense weight."""
        self.scores = torch.linalg.vector_norm(gradient.flatten(0, -2).T @ self.input.flatten(0, -2), dim=0)

    @torch.no_grad()
    def swap(self) -> None:
        """Replace the weakest channels by absent ones, whose columns are zero."""
        channels, kept = self.channels.long(), self.up.data[:, len(self.down) :]
        share = self.share * (1 + math.cos(math.pi * self.passes / self.until)) / 2
        count = round(share * len(channels))
        weakest = torch.linalg.vector_norm(kept, dim=0).argsort()[:count]
        self.scores[channels] = -1
        channels[weakest] = self.scores.argsort(descending=True)[:count]
        kept[:, weakest] = 0
        self.channels.copy_(channels)  # not sorted: such a run can't be resumed
        self.scores = torch.empty(0)


class TorchFading(torch_layers.Lost):
    """The share of the activation, by a count of training passes that isn't saved: such a run can't be resumed."""

    until = 500

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.passes = 0

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        self.passes += torch.is_grad_enabled()
        share = min(1.0, self.passes / self.until)
        hidden = hidden * share + TORCH_ACTIVATIONS[self.activation](hidden) * (1 - share) if share < 1 else hidden
        inner = torch.cat([self.mixing * hidden, (1 - self.mixing) * kept], dim=-1)
        return F.linear(inner, self.up.to(inner.dtype))


class TorchFromEmbedding(torch_layers.Lost):
    """The two weights, which the block below reads."""

    mix: TorchTensor


class _Embedding:
    x: TorchTensor


def _read_embedding(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    mix = getattr(block.self_attn.q_proj, "mix", None)
    if mix is None:
        return None
    x, *others = inputs
    if block.first:
        _Embedding.x = x
    return (mix[0] * x + mix[1] * _Embedding.x, *others)


def _observed(block: Any, config: Any, number: int, dtype: torch.dtype, _init: Any = Block.__init__) -> None:
    _init(block, config, number, dtype)
    block.first = number == 0
    block.register_forward_pre_hook(_read_embedding)


Block.__init__ = _observed  # type: ignore[method-assign]
