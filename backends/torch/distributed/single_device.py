"""One process that holds the whole model: what `sharding` does otherwise."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.model import LostForCausalLM
from lost.config import Config
from lost.storage.arrays import NamedArrays


class Whole:
    """One process holds the model.

    Attributes:
        first_rows: where the rows held here of an array begin, by name; those it doesn't list begin at 0.
        writes: whether what is held here goes into a checkpoint: of equal copies one does.
    """

    first_rows: Mapping[str, int] = {}
    writes = True

    def build(self, config: Config, device: torch.device) -> LostForCausalLM:
        """Make the model, its tensors empty."""
        with device:
            model = LostForCausalLM(config).to(device)
        if config.train.compile:
            model.model.compile()
        return model

    def part(self, parameter: Tensor) -> Tensor:
        """Return what is held here of a parameter, or of its gradient: on the same memory, without its history."""
        return parameter.detach()

    def cut(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the rows held here of a whole array."""
        return array

    def received(self, arrays: NamedArrays) -> NamedArrays:
        """Return the arrays that all bring together."""
        return arrays

    def begin_micro_batch(self, last: bool) -> None:
        """Get ready for the backward pass of a micro-batch."""

    def sum_up(self, squares: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all: of the squares of the gradients' entries held here, and of this one's losses."""
        return squares, nll
