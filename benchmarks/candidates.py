"""Layers that were tried beside LOST's kept channels and are no part of `lost`, for studies; PyTorch only.

    y = up act(down x) + C x,    C: `density` of random entries (entries), or diagonal blocks after a stride (blocks)

usage, as a study's `program`: python benchmarks/candidates.py train ...
"""

import math
import sys
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor as TorchTensor

from lost.backends.torch.kernels.lost import ACTIVATIONS as TORCH_ACTIVATIONS
from lost.backends.torch.layers import Layer
from lost.projections import KINDS, Projection, Tensor
from lost.projections.activations import ACTIVATIONS
from lost.projections.base import Array
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


KINDS.update(entries=Entries, blocks=Blocks)

if __name__ == "__main__":
    import candidates  # noqa: F401 - registers the kinds under the name that layers are imported by

    from lost.cli.main import main

    sys.exit(main())
