"""AdamW with torchao's 8-bit moments, handed over exactly: codes and scales."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.optim.base import groups
from lost.config import OptimizerConfig
from lost.errors import BackendError
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS
from lost.optim.adamw8bit import BLOCK, SCALE, is_quantized


class AdamW8bit:
    """Implements `Update`.

    Args:
        settings: of the run.
        tensors: what is trained, by name.
        table: the parameters' rows, by name.

    Raises:
        BackendError: there is no torchao.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter]
    ) -> None:
        self._tensors = tensors
        self._optimizer = _torchao()(
            groups(settings, tensors, table), lr=settings.lr, betas=settings.betas, eps=settings.eps, block_size=BLOCK
        )

    def step(self, lr: float, skip: Tensor) -> None:
        """Move every tensor by its gradient, unless `skip`, which it waits for."""
        for group in self._optimizer.param_groups:
            group["lr"].fill_(lr)  # a tensor, so that the compiled update isn't compiled anew
        if not skip.item():
            self._optimizer.step()

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments, and the scales of the first ones."""
        for name, tensor in self._tensors.items():
            state = self._optimizer.state[tensor]
            for moment in MOMENTS:
                if moment in state:
                    value = state[moment]
                    yield f"{name}.{moment}", to_array(value.dequantize() if _quantised(tensor) else value)
            if _quantised(tensor) and MOMENTS[0] in state:
                yield f"{name}.{SCALE}", to_array(state[MOMENTS[0]].scale)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Take the arrays that `state` yields; the update counts on the CPU."""
        for tensor in self._tensors.values():
            self._optimizer.state[tensor] = {"step": torch.tensor(float(updates), device="cpu")}
        waiting: dict[str, Tensor] = {}  # first moments for their scales, or these for those
        for name, array in arrays:
            owner, _, kind = name.rpartition(".")
            tensor = self._tensors[owner]
            state, value = self._optimizer.state[tensor], to_tensor(array).to(tensor.device, tensor.dtype, copy=True)
            if not _quantised(tensor):
                state[kind] = value
            elif kind == MOMENTS[1]:
                state[kind] = _quantise(value, None, signed=False)
            elif owner in waiting:
                values, scale = (value, waiting.pop(owner)) if kind == MOMENTS[0] else (waiting.pop(owner), value)
                state[MOMENTS[0]] = _quantise(values, scale, signed=True)
            else:
                waiting[owner] = value


def _quantised(tensor: Tensor) -> bool:
    return is_quantized(tensor.numel())


def _torchao() -> Callable[..., torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise BackendError(
            f"optimizer.name = adamw8bit takes torchao: {error}; install it with: pip install torchao; or set "
            "optimizer.name=adamw"
        ) from None
    return AdamW8bit


def _quantise(values: Tensor, scale: Tensor | None, signed: bool) -> Tensor:
    """Return values that were kept in 8 bits as they were kept: with the scales given, or those of their maxima."""
    from torchao.optim.quant_utils import quantize_8bit_with_qmap, scale_tensor
    from torchao.optim.subclass_8bit import OptimState8bit

    kept = OptimState8bit.zeros(values.shape, signed, BLOCK, values.device, dtype=values.dtype)
    if scale is None:
        _, scale = scale_tensor(values, BLOCK)
    kept.scale.copy_(scale)
    kept.codes.copy_(quantize_8bit_with_qmap((values.view(-1, BLOCK) / kept.scale[:, None]).view_as(values), kept.qmap))
    return kept
