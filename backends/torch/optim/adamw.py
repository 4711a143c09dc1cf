"""The optimizer: AdamW, its moments as they are or in 8 bits, and how they cross the seam."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array, to_tensor
from lost.config import OptimizerConfig
from lost.errors import BackendError
from lost.model.parameters import Parameter
from lost.optim.moments import BLOCK, MOMENTS, SCALE, in_blocks


class Adam:
    """AdamW over named tensors; decay acts on those that the table says.

    Args:
        settings: of the run.
        tensors: what is trained, by name.
        table: the parameters' rows, by name.

    Raises:
        BackendError: 8-bit moments without torchao.
    """

    def __init__(
        self, settings: OptimizerConfig, tensors: Mapping[str, Tensor], table: Mapping[str, Parameter]
    ) -> None:
        self._tensors = tensors
        self.eight_bits = settings.name == "adamw8bit"
        decaying = [tensor for name, tensor in tensors.items() if table[name].decays]
        others = [tensor for name, tensor in tensors.items() if not table[name].decays]
        groups = [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        make: Callable[..., torch.optim.Optimizer] = _eight_bit_adamw() if self.eight_bits else torch.optim.AdamW
        options = {"block_size": BLOCK} if self.eight_bits else {"fused": True}
        self._optimizer = make(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, **options)

    def step(self, lr: float, skip: Tensor) -> None:
        """Move every tensor by its gradient, unless `skip`, a bool on the device: then nothing changes."""
        for group in self._optimizer.param_groups:
            if self.eight_bits:
                group["lr"].fill_(lr)  # a tensor, so that the compiled update isn't compiled anew
            else:
                group["lr"] = lr
        if not self.eight_bits:
            # What PyTorch's own GradScaler sets: the fused update looks at it on the device.
            self._optimizer.grad_scale, self._optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        elif skip.item():
            return
        self._optimizer.step()

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the arrays that `moment_shapes` lists; on CPU views, unless they are kept in 8 bits."""
        for name, tensor in self._tensors.items():
            state = self._optimizer.state[tensor]
            for moment in MOMENTS:
                if moment in state:
                    value = state[moment]
                    yield f"{name}.{moment}", to_array(value.dequantize() if self._quantised(tensor) else value)
            if self._quantised(tensor) and MOMENTS[0] in state:
                yield f"{name}.{SCALE}", to_array(state[MOMENTS[0]].scale)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        """Take the arrays that `state` yields, as they were after so many updates."""
        for tensor in self._tensors.values():
            # fused AdamW counts on the device, torchao's on the CPU
            count = torch.tensor(float(updates), device="cpu" if self.eight_bits else tensor.device)
            self._optimizer.state[tensor] = {"step": count}
        waiting: dict[str, Tensor] = {}  # first moments for their scales, or these for those
        for name, array in arrays:
            owner, _, kind = name.rpartition(".")
            tensor = self._tensors[owner]
            state, value = self._optimizer.state[tensor], to_tensor(array).to(tensor.device, tensor.dtype, copy=True)
            if not self._quantised(tensor):
                state[kind] = value
            elif kind == MOMENTS[1]:
                state[kind] = _quantise(value, None, signed=False)
            elif owner in waiting:
                values, scale = (value, waiting.pop(owner)) if kind == MOMENTS[0] else (waiting.pop(owner), value)
                state[MOMENTS[0]] = _quantise(values, scale, signed=True)
            else:
                waiting[owner] = value

    def _quantised(self, tensor: Tensor) -> bool:
        return self.eight_bits and in_blocks(tensor.numel())


def _eight_bit_adamw() -> Callable[..., torch.optim.Optimizer]:
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
