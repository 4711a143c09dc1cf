"""The whole model on one device; `sharded` is the alternative."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.model import LostForCausalLM
from lost.config import Config
from lost.storage.arrays import NamedArrays


class SingleDevice:
    """One process holds the whole model.

    Attributes:
        first_rows: the first row held here of each array, by name; 0 for arrays not listed.
        shards: processes that share the rows of a matrix.
        writes: whether this process writes its part into checkpoints; of identical copies one does.
    """

    first_rows: Mapping[str, int] = {}
    shards, writes = 1, True

    def build(self, config: Config, device: torch.device, compiled: bool) -> LostForCausalLM:
        """Make the model, its tensors empty, its blocks compiled or not."""
        with device:
            model = LostForCausalLM(config)
        if compiled:
            model.compile_training()
        return model

    def local_tensor(self, parameter: Tensor) -> Tensor:
        """Return the local part of a parameter or its gradient: the same memory, detached."""
        return parameter.detach()

    def local_rows(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the rows of a whole array that are held here."""
        return array

    def gather(self, arrays: NamedArrays) -> NamedArrays:
        """Return the arrays that all workers contribute, each whole."""
        return arrays

    def begin_micro_batch(self, last: bool) -> None:
        """Prepare for the backward pass of a micro-batch."""

    def all_reduce(self, squares: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all workers of the squared gradient entries held locally, and of the local losses."""
        return squares, sums

    def sum_rows(self, gram: Tensor) -> Tensor:
        """Return the tensor: all rows are here."""
        return gram

    def to_owners(self, stack: Tensor, rows: int) -> Tensor:
        """Return the matrices."""
        return stack

    def to_rows(self, owned: Tensor, count: int) -> Tensor:
        """Return the matrices."""
        return owned
