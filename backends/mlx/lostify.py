"""LOST layers in any MLX model: an mlx-lm model, or a module of your own."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from lost.backends.mlx.arrays import to_array, to_mlx
from lost.backends.mlx.layers import Lost
from lost.projections import Projection
from lost.projections.lostify import HEADS, LostifyOptions, LostifyReport, check_unshared, select_layers


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
    """Replace linear layers of a model by LOST layers, in place; biases and types stay.

    Args:
        module: any model with `nn.Linear` layers; quantized ones, and other subclasses, are left alone.
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
    names = sorted(select_layers(linear, include, exclude))
    check_unshared(names, dict(tree_flatten(module.parameters())).items())
    before, fits, converted = _count(module), [], []
    for name in names:
        old = linear[name]
        weight = to_array(old.weight.astype(mx.float32))
        projection, values, fit = options.convert_layer(name, weight, bias="bias" in old)
        fits.append(fit)
        converted.append((name, _lost_layer(projection, values, old)))
    module.update_modules(tree_unflatten(converted))
    return LostifyReport(fits, before, _count(module))


def _lost_layer(projection: Projection, values: dict[str, np.ndarray], old: nn.Linear) -> Lost:
    dtype = old.weight.dtype
    new = Lost(projection, dtype)
    arrays = {suffix: to_mlx(value) for suffix, value in values.items()}
    arrays = {suffix: each if each.dtype == mx.int32 else each.astype(dtype) for suffix, each in arrays.items()}
    new.update(arrays | ({"bias": old.bias} if "bias" in old else {}))
    mx.eval(new.parameters())
    frozen = old.parameters().keys() - old.trainable_parameters().keys()
    new.freeze(keys=[key for key in new.parameters() if (key if key == "bias" else "weight") in frozen])
    new.train(old.training)
    return new


def _count(module: nn.Module) -> int:
    arrays = {id(array): array for array in dict(tree_flatten(module.parameters())).values()}.values()
    return sum(each.size for each in arrays if mx.issubdtype(each.dtype, mx.floating))
