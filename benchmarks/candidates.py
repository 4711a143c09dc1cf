"""Layers that were tried and are no part of `lost`, for studies; PyTorch only.

    entries, blocks    y = up act(down x) + C x, C being `density` of random entries, or diagonal blocks after a stride
    normed             LOST with an RMSNorm on the bottleneck, before the activation
    lax                that, of the sum with what the same projection had there one block earlier (LaX)
    crossing           LaX without its norm: the bottleneck's activated features of one block earlier, weighted, from 0
    gated              CoLA with a gated bottleneck: up (act(a x) * b x), down = [a; b]
    shifted            CoLA whose bottleneck also reads its features one and two tokens earlier, weighted, from 0
    shifted_lost       LOST with that bottleneck
    shifted_dense      dense that also reads its input one and two tokens earlier, weighted by channel, from 0
    shifted_input      LOST whose whole input looks back so, for `*.q_proj` and `*.gate_proj`
    shared_input       LOST that reads what that one read, for k, v and up: as with a short convolution before the MLP
    earlier            LOST whose kept channels are those of the token before, their columns from 0
    joint, joined      CoLA with one bottleneck of q, k and v, one of gate and up: the first has it, others read it
    reselected         LOST whose weakest channels make way, every 50 steps, for those with the largest gradient (RigL)
    fading             LOST whose activation turns into none: act(h) (1 - t) + h t, t from 0 to 1 over steps 0 to 500
    from_embedding     LOST, and every block reads a x + b x0, x0 being the embedding (nanochat); for `*.q_proj`

What they compute is in `candidate_layers.py`.

usage, as a study's `program`: python benchmarks/candidates.py train ...
"""

import math
import sys
from collections.abc import Mapping

import candidate_layers  # noqa: F401 - before there are blocks: it looks into them
import numpy as np

from lost.projections import KINDS, Projection, Tensor
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array
from lost.projections.dense import Dense
from lost.projections.lost import Lost
from lost.projections.lowrank import check_rank, initial_pair
from lost.utils.randomness import generator, normal


class Paired(Projection):
    """A low-rank pair, and beside it what subclasses add."""

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
        """Return what is added, C (out x in): nothing."""
        return np.zeros((self.out_features, self.in_features))

    def saved_per_token(self) -> int:
        """The bottleneck, before its activation and after."""
        return 2 * self.settings.rank


class Entries(Paired):
    """A complement of random entries, SLTrain's."""

    layers = {"torch": "candidate_layers:TorchEntries"}  # noqa: RUF012

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

    layers = {"torch": "candidate_layers:TorchBlocks"}  # noqa: RUF012

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


class Normed(Lost):
    """LOST with a norm on the bottleneck."""

    layers = {"torch": "candidate_layers:TorchNormed"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "norm": Tensor((self.settings.rank,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "norm": np.ones(self.settings.rank)}


class Lax(Normed):
    """That, with what the same projection had one block earlier."""

    layers = {"torch": "candidate_layers:TorchLax"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "crossing": Tensor((1,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "crossing": np.ones(1)}


class Crossing(Lost):
    """LOST with what the same projection had one block earlier."""

    layers = {"torch": "candidate_layers:TorchCrossing"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "crossing": Tensor((self.settings.rank,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "crossing": np.zeros(self.settings.rank)}


class Gated(Paired):
    """A pair whose bottleneck is twice as wide before its gate."""

    layers = {"torch": "candidate_layers:TorchGated"}  # noqa: RUF012

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


class LooksBack(Projection):
    """A filter of three causal taps for each feature, the present one fixed at 1; which features, subclasses say."""

    @property
    def features(self) -> int:
        """How many are filtered: the bottleneck's."""
        return self.settings.rank

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "taps": Tensor((2 * self.features,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "taps": np.zeros(2 * self.features)}


class Shifted(LooksBack, Paired):
    """A pair whose bottleneck looks back."""

    layers = {"torch": "candidate_layers:TorchShifted"}  # noqa: RUF012


class ShiftedLost(LooksBack, Lost):
    """LOST whose bottleneck looks back."""

    layers = {"torch": "candidate_layers:TorchShiftedLost"}  # noqa: RUF012


class ShiftedDense(LooksBack, Dense):
    """Dense whose input looks back."""

    layers = {"torch": "candidate_layers:TorchShiftedDense"}  # noqa: RUF012

    @property
    def features(self) -> int:
        """The input's."""
        return self.in_features


class ShiftedInput(LooksBack, Lost):
    """LOST whose input looks back."""

    layers = {"torch": "candidate_layers:TorchShiftedInput"}  # noqa: RUF012

    @property
    def features(self) -> int:
        """The input's."""
        return self.in_features


class SharedInput(Lost):
    """LOST that reads the input that looks back."""

    layers = {"torch": "candidate_layers:TorchSharedInput"}  # noqa: RUF012


class Earlier(Lost):
    """LOST whose kept channels look back."""

    layers = {"torch": "candidate_layers:TorchEarlier"}  # noqa: RUF012

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        values = super()._initial(seed, std)
        values["up"][:, self.settings.rank :] = 0
        return values


class Joint(Paired):
    """The pair whose bottleneck others read."""

    layers = {"torch": "candidate_layers:TorchJoint"}  # noqa: RUF012


class Joined(Paired):
    """The second half of a pair."""

    layers = {"torch": "candidate_layers:TorchJoined"}  # noqa: RUF012

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

    layers = {"torch": "candidate_layers:TorchReselected"}  # noqa: RUF012


class Fading(Lost):
    """LOST whose activation fades."""

    layers = {"torch": "candidate_layers:TorchFading"}  # noqa: RUF012


class FromEmbedding(Lost):
    """LOST with the two weights of its block's input."""

    layers = {"torch": "candidate_layers:TorchFromEmbedding"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "mix": Tensor((2,))}

    def _initial(self, seed: int, std: float) -> dict[str, Array]:
        return {**super()._initial(seed, std), "mix": np.array([1.0, 0.1])}


KINDS.update(entries=Entries, blocks=Blocks, normed=Normed, lax=Lax, reselected=Reselected)
KINDS.update(from_embedding=FromEmbedding, fading=Fading, crossing=Crossing, gated=Gated, joint=Joint, joined=Joined)
KINDS.update(shifted=Shifted, shifted_lost=ShiftedLost, shifted_dense=ShiftedDense, earlier=Earlier)
KINDS.update(shifted_input=ShiftedInput, shared_input=SharedInput)

if __name__ == "__main__":
    from lost.cli.main import main

    sys.exit(main())
