"""Layers that were tried and are no part of `lost`, for studies; PyTorch only.

    entries, blocks    y = up act(down x) + C x, C being `density` of random entries, or diagonal blocks after a stride
    normed             LOST with an RMSNorm on the bottleneck, before the activation
    lax                that, of the sum with what the same projection had there one block earlier (LaX)
    crossing           LaX without its norm: the bottleneck's activated features of one block earlier, weighted, from 0
    gated              CoLA with a gated bottleneck: up (act(a x) * b x), down = [a; b]
    shifted            CoLA whose bottleneck also reads its features one and two tokens earlier, weighted, from 0
    joint, joined      CoLA with one bottleneck of q, k and v, one of gate and up: the first has it, others read it
    reselected         LOST whose weakest channels make way, every 50 steps, for those with the largest gradient (RigL)
    from_embedding     LOST, and every block reads a x + b x0, x0 being the embedding (nanochat); for `*.q_proj`

usage, as a study's `program`: python benchmarks/candidates.py train ...
"""

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor as TorchTensor

from lost.backends.torch import layers as torch_layers
from lost.backends.torch.kernels.lost import ACTIVATIONS as TORCH_ACTIVATIONS
from lost.backends.torch.kernels.lost import narrow_lost
from lost.backends.torch.layers import Layer
from lost.backends.torch.model import Block
from lost.projections import KINDS, Projection, Tensor
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array
from lost.projections.lost import Lost
from lost.projections.lowrank import check_rank, initial_pair
from lost.utils.randomness import generator, normal


class Paired(Projection):
    """A low-rank pair beside a complement that subclasses define."""

    def __post_init__(self) -> None:
        check_rank(self)

    @property
    def has_activation(self) -> bool:
        """Whether there is an activation on the low-rank features."""
        return self.settings.activation != "none"

    def _tensors(self) -> dict[str, Tensor]:
        rank = self.settings.rank
        return {"down": Tensor((rank, self.in_features)), "up": Tensor((self.out_features, rank))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        down, up = initial_pair(self, seed, std)
        return {"down": down, "up": up}

    def complement_std(self, std: float) -> float:
        """As beside the other kinds' pairs."""
        return self.in_features**-0.5 if self.settings.start == "zero" else self.std(std)

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        hidden = ACTIVATIONS[self.settings.activation](x @ values["down"].T)
        return hidden @ values["up"].T + x @ self.complement(values).T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return both parts."""
        return values["up"] @ values["down"] + self.complement(values)

    def complement(self, values: Mapping[str, Array]) -> Array:
        """Return C (out x in)."""
        raise NotImplementedError

    def saved_per_token(self) -> int:
        """The bottleneck, before its activation and after."""
        return 2 * self.settings.rank


class Entries(Paired):
    """A complement of random entries, SLTrain's."""

    layers = {"torch": "candidates:TorchEntries"}  # noqa: RUF012

    @property
    def kept(self) -> int:
        """Number of nonzero entries."""
        return max(1, int(self.settings.density * self.in_features * self.out_features))

    def _tensors(self) -> dict[str, Tensor]:
        limit = self.in_features * self.out_features
        return {**super()._tensors(), "values": Tensor((self.kept,)), "indices": Tensor((self.kept,), below=limit)}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        limit = self.in_features * self.out_features
        indices = generator(seed, f"{self.name}.indices").choice(limit, self.kept, replace=False, shuffle=False)
        values = normal(seed, f"{self.name}.values", (self.kept,), self.complement_std(std))
        return {**super()._initial(seed, std), "values": values, "indices": np.sort(indices).astype(np.int32)}

    def complement(self, values: Mapping[str, Array]) -> Array:
        """Return C (out x in)."""
        weight = np.zeros(self.in_features * self.out_features, values["values"].dtype)
        weight[values["indices"]] = values["values"]
        return weight.reshape(self.out_features, self.in_features)


class Blocks(Paired):
    """A complement of diagonal blocks: outputs of block b read the inputs b, b + blocks, b + 2 blocks, ..."""

    layers = {"torch": "candidates:TorchBlocks"}  # noqa: RUF012

    @property
    def blocks(self) -> int:
        """Number of blocks: the most that divide both sides and keep at least `density` of the entries."""
        common = math.gcd(self.in_features, self.out_features)
        return max(n for n in range(1, common + 1) if common % n == 0 and n * self.settings.density <= 1)

    def _tensors(self) -> dict[str, Tensor]:
        shape = (self.blocks, self.out_features // self.blocks, self.in_features // self.blocks)
        return {**super()._tensors(), "blocks": Tensor(shape)}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        shape = self._tensors()["blocks"].shape
        blocks = normal(seed, f"{self.name}.blocks", shape, self.complement_std(std))
        return {**super()._initial(seed, std), "blocks": blocks}

    def complement(self, values: Mapping[str, Array]) -> Array:
        """Return C (out x in)."""
        count, rows, columns = values["blocks"].shape
        weight = np.zeros((count, rows, columns, count), values["blocks"].dtype)
        weight[np.arange(count), :, :, np.arange(count)] = values["blocks"]
        return weight.reshape(self.out_features, self.in_features)


class TorchPaired(Layer):
    """The pair; what it adds in `widen` is made in `narrow`, from the input."""

    down: TorchTensor
    up: TorchTensor

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.act = TORCH_ACTIVATIONS[projection.settings.activation]

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return down x and C x."""
        return F.linear(x, self.down.to(x.dtype)), self.add(x)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, added = parts
        return F.linear(self.act(hidden), self.up.to(hidden.dtype)) + added

    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""
        raise NotImplementedError


class TorchEntries(TorchPaired):
    """Entries, as a dense product."""

    values: TorchTensor
    indices: TorchTensor

    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""
        shape = (len(self.up), self.down.shape[1])
        weight = self.values.new_zeros(math.prod(shape)).index_copy(0, self.indices.long(), self.values)
        return F.linear(x, weight.view(shape).to(x.dtype))


class TorchBlocks(TorchPaired):
    """Blocks, as a batched product."""

    blocks: TorchTensor

    def add(self, x: TorchTensor) -> TorchTensor:
        """Return C x."""
        count, _, columns = self.blocks.shape
        groups = x.reshape(-1, columns, count).permute(2, 0, 1)
        return (groups @ self.blocks.to(x.dtype).mT).transpose(0, 1).reshape(*x.shape[:-1], -1)


class Normed(Lost):
    """LOST with a norm on the bottleneck."""

    layers = {"torch": "candidates:TorchNormed"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "norm": Tensor((self.settings.rank,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "norm": np.ones(self.settings.rank)}


class Lax(Normed):
    """That, with what the same projection had one block earlier."""

    layers = {"torch": "candidates:TorchLax"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "crossing": Tensor((1,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "crossing": np.ones(1)}


class Crossing(Lost):
    """LOST with what the same projection had one block earlier."""

    layers = {"torch": "candidates:TorchCrossing"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "crossing": Tensor((self.settings.rank,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "crossing": np.zeros(self.settings.rank)}


class Gated(Paired):
    """A pair whose bottleneck is twice as wide before its gate."""

    layers = {"torch": "candidates:TorchGated"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "down": Tensor((2 * self.settings.rank, self.in_features))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        values = super()._initial(seed, std)
        gate = normal(seed, f"{self.name}.gate", values["down"].shape, float(values["down"].std()))
        return {**values, "down": np.concatenate([values["down"], gate])}

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        gate, passed = np.split(x @ values["down"].T, 2, axis=-1)
        return (ACTIVATIONS[self.settings.activation](gate) * passed) @ values["up"].T

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return what has the size of one: a gate has no linear form."""
        return values["up"] @ values["down"][: self.settings.rank]


class Shifted(Paired):
    """A pair whose bottleneck looks back: a causal depthwise filter of three taps, the present one fixed at 1."""

    layers = {"torch": "candidates:TorchShifted"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "taps": Tensor((2 * self.settings.rank,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "taps": np.zeros(2 * self.settings.rank)}

    def complement(self, values: Mapping[str, Array]) -> Array:
        """Return nothing."""
        return np.zeros((self.out_features, self.in_features))


class Joint(Paired):
    """The pair whose bottleneck others read."""

    layers = {"torch": "candidates:TorchJoint"}  # noqa: RUF012

    def complement(self, values: Mapping[str, Array]) -> Array:
        """Return nothing."""
        return np.zeros((self.out_features, self.in_features))


class Joined(Paired):
    """The second half of a pair."""

    layers = {"torch": "candidates:TorchJoined"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {"up": Tensor((self.out_features, self.settings.rank))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {"up": super()._initial(seed, std)["up"]}

    def _forward(self, x: Array, values: Mapping[str, Array]) -> Array:
        return np.zeros((*x.shape[:-1], self.out_features))

    def merged(self, values: Mapping[str, Array]) -> Array:
        """Return nothing: what it reads is another's."""
        return np.zeros((self.out_features, self.in_features))


class Reselected(Lost):
    """LOST with channels that change."""

    layers = {"torch": "candidates:TorchReselected"}  # noqa: RUF012


class FromEmbedding(Lost):
    """LOST with the two weights of its block's input."""

    layers = {"torch": "candidates:TorchFromEmbedding"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "mix": Tensor((2,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "mix": np.array([1.0, 0.1])}


class TorchNormed(torch_layers.Lost):
    """The norm, in `widen`."""

    norm: TorchTensor

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        return super()._widen(F.rms_norm(hidden, hidden.shape[-1:], self.norm, 1e-6), kept)


class TorchLax(TorchNormed):
    """The crossing; what was there one block earlier is kept by the projection's name within its block."""

    crossing: TorchTensor
    earlier: dict[str, TorchTensor] = {}  # noqa: RUF012 - of the pass under way

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        _, _, block, self.place = projection.name.split(".", 3)
        self.first = block == "0"

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        if not self.first:
            hidden = hidden + self.crossing * self.earlier[self.place]
        hidden = F.rms_norm(hidden, hidden.shape[-1:], self.norm, 1e-6)
        self.earlier[self.place] = TORCH_ACTIVATIONS[self.activation](hidden)
        return torch_layers.Lost._widen(self, hidden, kept)


class TorchCrossing(torch_layers.Lost):
    """The crossing, of features after the activation."""

    crossing: TorchTensor
    earlier: dict[str, TorchTensor] = {}  # noqa: RUF012 - of the pass under way

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        _, _, block, self.place = projection.name.split(".", 3)
        self.first = block == "0"

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        hidden, kept = parts
        if not self.first:
            hidden = hidden + self.crossing * self.earlier[self.place]
        self.earlier[self.place] = TORCH_ACTIVATIONS[self.activation](hidden)
        return super()._widen(hidden, kept)


class TorchGated(TorchPaired):
    """The gate."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return down x, gate and gated."""
        return (F.linear(x, self.down.to(x.dtype)),)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        gate, passed = parts[0].chunk(2, dim=-1)
        return F.linear(self.act(gate) * passed, self.up.to(gate.dtype))


class TorchShifted(TorchPaired):
    """The filter."""

    taps: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return the filtered down x."""
        hidden = F.linear(x, self.down.to(x.dtype))
        before = F.pad(hidden, (0, 0, 2, 0))  # (b, 2 + s, r)
        one, two = self.taps.chunk(2)
        return (hidden + one * before[:, 1:-1] + two * before[:, :-2],)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return F.linear(self.act(parts[0]), self.up.to(parts[0].dtype))


class TorchJoint(TorchPaired):
    """The bottleneck of the pass under way, activated once for all."""

    hidden: TorchTensor

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return act(down x)."""
        TorchJoint.hidden = self.act(F.linear(x, self.down.to(x.dtype)))
        return (TorchJoint.hidden,)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return F.linear(parts[0], self.up.to(parts[0].dtype))


class TorchJoined(TorchJoint):
    """What the layer before it in this block had."""

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return that."""
        return (TorchJoint.hidden,)


class TorchReselected(Layer):
    """The swaps: a third of the channels at first, by a cosine none after 750 steps. Momenta stay: they soon fade."""

    down: TorchTensor
    up: TorchTensor
    channels: TorchTensor
    every, until, share = 50, 750, 0.3

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        settings = projection.settings
        self.mixing, self.activation, self.activation_at = settings.gamma, settings.activation, settings.activation_at
        self.passes, self.input, self.scores = 0, torch.empty(0), torch.empty(0)

    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        """Return both parts, after the swap that is due."""
        if torch.is_grad_enabled():
            self.passes += 1
            if len(self.scores):
                self.swap()
            self.input = x.detach() if self.passes % self.every == 0 and self.passes <= self.until else torch.empty(0)
        return narrow_lost(x, [self.down], [self.channels])[0]

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        y = torch_layers.Lost._widen(self, *parts)  # type: ignore[arg-type]
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
KINDS.update(entries=Entries, blocks=Blocks, normed=Normed, lax=Lax, reselected=Reselected)
KINDS.update(from_embedding=FromEmbedding, crossing=Crossing, gated=Gated, joint=Joint, joined=Joined)
KINDS.update(shifted=Shifted)

if __name__ == "__main__":
    import candidates  # noqa: F401 - registers the kinds under the name that layers are imported by

    from lost.cli.main import main

    sys.exit(main())
