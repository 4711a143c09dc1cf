"""LOST layers in any PyTorch model: a transformers model, or a module of your own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lost.backends.torch.arrays import to_tensor
from lost.backends.torch.layers import Lost
from lost.errors import UserError
from lost.projections import Projection
from lost.projections.lostify import HEADS, LostifyOptions, LostifyReport, check_unshared, select_layers


class LostLinear(Lost):
    """A LOST layer in place of an `nn.Linear`.

    Its state: `down` (rank, in), `up` (out, rank + k), `channels` (k,) int32, and `bias` (out,) if there was one.
    """

    def __init__(self, projection: Projection, dtype: torch.dtype) -> None:
        super().__init__(projection, dtype)
        self.in_features, self.out_features = projection.in_features, projection.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), under autocast in its type."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return super().forward(x)


@torch.no_grad()
def lostify(
    module: nn.Module,
    rank: int,
    density: float = 0.03,
    *,
    gamma: float = 0.7,
    fresh: bool = False,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = HEADS,
) -> LostifyReport:
    """Replace linear layers of a model by LOST layers, in place; biases, devices and types stay.

    Args:
        module: any model with `nn.Linear` layers. Subclasses are left alone: other code relies on their attributes.
        rank: of the low-rank pair; smaller layers get the largest rank they can have.
        density: share of input channels to keep; rank and channels together are rounded up to a multiple of 32.
        gamma: weight of the low-rank part.
        fresh: False: each layer approximates what it computed, as closely as rank and channels allow, without
            activation. True: each is initialized for training as in the paper, with a SiLU inside.
        include: patterns for names such as `model.layers.0.mlp.up_proj`; a layer must match one.
        exclude: patterns that it must not match; by default the usual names of output heads.

    Returns:
        What changed.

    Raises:
        UserError: no layer matches, a weight is shared, or an option is out of range.
    """
    options = LostifyOptions(rank, density, gamma, fresh)
    linear = {name: each for name, each in module.named_modules() if type(each) is nn.Linear}
    names = select_layers(linear, include, exclude)
    for name in names:
        if linear[name].weight.is_meta:
            raise UserError(f"{name} has no values yet (it is on the meta device); expected weights; load them first")
    check_unshared(names, module.named_parameters(remove_duplicate=False))
    before, fits, converted = _count(module), [], []
    for name in names:
        old = linear[name]
        weight = old.weight.cpu().to(torch.float32).numpy()
        projection, values, fit = options.convert_layer(name, weight, bias=old.bias is not None)
        fits.append(fit)
        converted.append((name, _lost_layer(projection, values, old)))
    for name, layer in converted:  # only once nothing can fail any more
        module.set_submodule(name, layer)
    return LostifyReport(fits, before, _count(module))


def _lost_layer(projection: Projection, values: dict[str, np.ndarray], old: nn.Linear) -> LostLinear:
    new = LostLinear(projection, old.weight.dtype).to(old.weight.device)
    for suffix, value in values.items():
        getattr(new, suffix).copy_(to_tensor(value))
    for parameter in new.parameters():
        parameter.requires_grad_(old.weight.requires_grad)
    if new.bias is not None:
        new.bias.copy_(old.bias).requires_grad_(old.bias.requires_grad)
    return new.train(old.training)


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())
