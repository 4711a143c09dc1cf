"""`lost.optim.skip_step.SkipRule`'s rule in tensors: no step waits for the device to be judged."""

import torch
from torch import Tensor

from lost.config import TrainConfig
from lost.optim.skip_step import WARM_UP, WINDOW, GuardState


class DeviceSkipRule:
    """Implements `lost.optim.skip_step.Guard`.

    Args:
        train: as for `SkipRule`.
        device: where losses and norms are.
        dtype: of the statistics: float64 where the device has it.
    """

    def __init__(self, train: TrainConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._factor = train.skip_spikes
        self._numbers = torch.zeros(4, device=device, dtype=dtype)  # skipped, in a row, usual norm, seen

    def state(self) -> GuardState:
        """Return the state after the last step; waits for the device."""
        skipped, in_a_row, usual_norm, seen = self._numbers.tolist()
        return GuardState(int(skipped), int(in_a_row), usual_norm, int(seen))

    def restore(self, state: GuardState) -> None:
        """Go on from a state."""
        numbers = [state.skipped, state.in_a_row, state.usual_norm, state.seen]
        self._numbers.copy_(torch.tensor(numbers, dtype=torch.float64))

    def skips(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether the update of a step is to be left out, a bool on the device, and remember."""
        skipped, in_a_row, usual, seen = self._numbers.unbind()
        skip = ~(loss.isfinite() & norm.isfinite())
        if self._factor:
            skip = skip | ((seen >= WARM_UP) & (norm > self._factor * usual))
        counted = (seen + 1).clamp(max=WINDOW)
        applied = torch.stack([skipped, torch.zeros_like(seen), usual + (norm - usual) / counted, counted])
        left_out = torch.stack([skipped + 1, in_a_row + 1, usual, seen])
        self._numbers = torch.where(skip, left_out, applied)
        return skip
