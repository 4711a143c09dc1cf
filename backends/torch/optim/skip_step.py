"""`lost.optim.gradients.skip_step.SkipRule` in tensors, so that no step waits for the device."""

import torch
from torch import Tensor

from lost.config import TrainConfig
from lost.optim.gradients.skip_step import WARM_UP, WINDOW, GuardState


class DeviceSkipRule:
    """Implements `lost.optim.gradients.skip_step.Guard`.

    Args:
        train: as for `SkipRule`.
        device: where losses and norms are.
        dtype: of the statistics; float64 where the device supports it.
    """

    def __init__(self, train: TrainConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._factor = train.skip_spikes
        self._numbers = torch.zeros(4, device=device, dtype=dtype)  # as in GuardState

    def state(self) -> GuardState:
        """Return the state after the last step; waits for the device."""
        skipped, consecutive, mean_norm, seen = self._numbers.tolist()
        return GuardState(int(skipped), int(consecutive), mean_norm, int(seen))

    def restore(self, state: GuardState) -> None:
        """Continue from a state."""
        numbers = [state.skipped, state.in_a_row, state.usual_norm, state.seen]
        self._numbers.copy_(torch.tensor(numbers, dtype=torch.float64))

    def should_skip(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether to skip the update of a step, a bool on the device, and update the state."""
        skipped, consecutive, mean_norm, seen = self._numbers.unbind()
        skip = ~(loss.isfinite() & norm.isfinite())
        if self._factor:
            skip = skip | ((seen >= WARM_UP) & (norm > self._factor * mean_norm))
        counted = (seen + 1).clamp(max=WINDOW)
        if_applied = torch.stack([skipped, torch.zeros_like(seen), mean_norm + (norm - mean_norm) / counted, counted])
        if_skipped = torch.stack([skipped + 1, consecutive + 1, mean_norm, seen])
        self._numbers = torch.where(skip, if_skipped, if_applied)
        return skip
