"""AdamW with torchao's 8-bit moments, saved and restored exactly by codes and scales."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.base import Rows, groups
from lost.config import OptimizerConfig
from lost.errors import BackendError
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS
from lost.optim.adamw8bit import BLOCK, SCALE, is_quantized


class AdamW8bit:
    """Implements `Update`.

    Args:
        settings: of the run.
        tensors: the trained ones, by name.
        table: the parameter table.
        rows: unused: they are updated independently of each other.

    Raises:
        BackendError: torchao isn't installed.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter], rows: Rows
    ) -> None:
        self._tensors = tensors
        self._optimizer = _torchao()(
            groups(settings, tensors, table), lr=settings.lr, betas=settings.betas, eps=settings.eps, block_size=BLOCK
        )

    def step(self, lr: float, skip: Tensor) -> None:
        """Update every tensor by its gradient, unless `skip`, which is waited for."""
        for group in self._optimizer.param_groups:
            group["lr"].fill_(lr * group["rate"])  # a tensor, so that the update isn't recompiled
        if not skip.item():
            self._optimizer.step()
        else:
            self._begin()

    def _begin(self) -> None:
        """Make the state that torchao makes by its first update, for a run that is saved before it."""
        for tensor in self._tensors.values():
            if not self._optimizer.state[tensor]:
                kept = [_zeros(tensor, signed) if _is_quantized(tensor) else torch.zeros_like(tensor)
                        for signed in (True, False)]  # fmt: skip
                self._optimizer.state[tensor] = {"step": torch.tensor(0.0), **dict(zip(MOMENTS, kept, strict=True))}

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments, and the scales of the first ones."""
        for name, tensor in self._tensors.items():
            state = self._optimizer.state[tensor]
            for moment in MOMENTS:
                if moment in state:
                    value = state[moment]
                    yield f"{name}.{moment}", to_array(value.dequantize() if _is_quantized(tensor) else value)
            if _is_quantized(tensor) and MOMENTS[0] in state:
                yield f"{name}.{SCALE}", to_array(state[MOMENTS[0]].scale)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Load the arrays that `state` yields; the step counter is on the CPU."""
        for tensor in self._tensors.values():
            self._optimizer.state[tensor] = {"step": torch.tensor(float(updates), device="cpu")}
        waiting: dict[str, Tensor] = {}  # first moments whose scales are still to come, or scales without moments
        for name, array in arrays:
            owner, _, kind = name.rpartition(".")
            tensor = self._tensors[owner]
            state, value = self._optimizer.state[tensor], to_tensor(array).to(tensor.device, tensor.dtype, copy=True)
            if not _is_quantized(tensor):
                state[kind] = value
            elif kind == MOMENTS[1]:
                state[kind] = _quantized(value, None, signed=False)
            elif owner in waiting:
                values, scale = (value, waiting.pop(owner)) if kind == MOMENTS[0] else (waiting.pop(owner), value)
                state[MOMENTS[0]] = _quantized(values, scale, signed=True)
            else:
                waiting[owner] = value


def _is_quantized(tensor: Tensor) -> bool:
    return is_quantized(tensor.numel())


def _torchao() -> Callable[..., torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise BackendError(
            f"optimizer.name = adamw8bit needs torchao: {error}; install it with: pip install torchao; or set "
            "optimizer.name=adamw"
        ) from None
    return AdamW8bit


def _zeros(like: Tensor, signed: bool) -> Any:
    """Return a moment in 8 bits before the first update."""
    from torchao.optim.subclass_8bit import OptimState8bit

    return OptimState8bit.zeros(like.shape, signed, BLOCK, like.device, dtype=like.dtype)


def _quantized(values: Tensor, scale: Tensor | None, signed: bool) -> Tensor:
    """Return values quantized exactly as they were before: with the given scales, or those of the blocks' maxima."""
    from torchao.optim.quant_utils import quantize_8bit_with_qmap, scale_tensor

    kept = _zeros(values, signed)
    if scale is None:
        _, scale = scale_tensor(values, BLOCK)
    kept.scale.copy_(scale)
    shares = values.view(-1, BLOCK) / kept.scale.clip(min=torch.finfo(values.dtype).tiny)[:, None]  # 0 of what is 0
    kept.codes.copy_(quantize_8bit_with_qmap(shares.view_as(values), kept.qmap))
    return kept
