"""A teacher in PyTorch: a model that only reads, whole on this device, none of it trained."""

import torch
from torch import Tensor

from lost.backends.torch.arrays import arriving, to_tensor
from lost.backends.torch.distillation.loss import Teaching
from lost.backends.torch.kernels.loss import chunks
from lost.backends.torch.model import LostForCausalLM
from lost.config import Config
from lost.data.batch import SoftTargets
from lost.model.parameters import index_limits, parameter_table, shapes_of
from lost.planning.memory.logits import logits_at_once
from lost.storage.arrays import NamedArrays, check_arrays


class Teacher:
    """A model that says what it predicts.

    Args:
        config: its model and types.
        parameters: all of them.
        device: that it runs on.
        compiled: whether its blocks are compiled.
    """

    def __init__(self, config: Config, parameters: NamedArrays, device: torch.device, compiled: bool) -> None:
        with device:
            self._model = LostForCausalLM(config).requires_grad_(False)
        table = parameter_table(config)
        held = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        for name, array in check_arrays(parameters, shapes_of(table), index_limits(table)):
            held[name].copy_(to_tensor(array))
        if compiled:
            self._model.compile_training()

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Teaching:
        """Return what it predicts after tokens (b, s)."""
        states = self._model.model(tokens).flatten(0, 1)
        return Teaching(states, self._model.head.to(states.dtype), True)


def taught(soft: SoftTargets, device: torch.device) -> Teaching:
    """Return what was kept of a teacher's predictions, on a device."""
    ids, kept = (arriving(torch.from_numpy(each), device) for each in (soft.ids, soft.log_probabilities))
    return Teaching(ids.flatten(0, 1).long(), kept.flatten(0, 1), False)


@torch.no_grad()
def likeliest(states: Tensor, head: Tensor, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the likeliest entries of n predictions, the likeliest first: ids, and log-probabilities, (n, top_k).

    Args:
        states: (n, h).
        head: (vocab, h), of the same type.
        top_k: how many.
        temperature: that logits are divided by.
    """
    found = []
    for rows in chunks(len(states), len(head), logits_at_once("torch", states.device.type)):
        scores = (states[rows] @ head.T).to(torch.promote_types(states.dtype, torch.float32)).div_(temperature)
        found.append(scores.log_softmax(dim=1).topk(top_k, dim=1))
    return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])
