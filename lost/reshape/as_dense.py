"""Averages of layers as the matrices that they apply, decomposed anew: for layers that are stored differently.

Only where a matrix is what a layer applies: without an activation inside, reading no earlier tokens.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lost.config import Config, ProjectionSettings
from lost.errors import ConfigError, UserError
from lost.interop.rewrite import NUMPY
from lost.method.compress import fitting_rank
from lost.model.parameters import parameter_table, projections
from lost.projections import KINDS, Projection
from lost.reshape.merge import Part, layer_values, mean, reading
from lost.utils.parallel import side_by_side


def decomposed_target(parts: Sequence[Part], rank: int) -> Config:
    """Return the first part's configuration, its layers without activation and of another rank.

    Layers become those of the kind that theirs `decomposes_as`: lost and sltrain lost, lowrank and cola lowrank; plain
    matrices stay.

    Args:
        parts: of one model.
        rank: of each layer, or the largest that its shape allows.

    Raises:
        ConfigError: a layer of a part is no matrix.
        UserError: the parts have factors of kinds that can't be decomposed.
    """
    for part in parts:
        bent = [each for each in projections(part.checkpoint.config) if not each.is_one_matrix]
        if bent:
            inside = "an activation" if bent[0].has_activation else "a convolution"
            raise ConfigError(
                f"--as-dense {rank}: {len(bent)} projections of {part.checkpoint.path} have {inside} inside, "
                f"{bent[0].name} among them, so no matrix is equivalent; expected projection.activation = none and "
                "projection.short_conv_width = 0; leave the option out, and merge runs of one start"
            )
    config = parts[0].checkpoint.config
    base = _linear(config.projection.settings_for(""), rank)
    new = {each.name: _linear(each.settings, fitting_rank(rank, each.out_features, each.in_features))
           for each in projections(config)}  # fmt: skip
    overrides = {name: each.model_dump() for name, each in new.items() if each != base}
    return config.replace("projection", **base.model_dump(), overrides=overrides)


def _linear(settings: ProjectionSettings, rank: int) -> ProjectionSettings:
    kind = KINDS[settings.kind].decomposes_as
    if kind is None:
        raise UserError(f"--as-dense {rank}: layers of kind {settings.kind} can't be decomposed; leave the option out")
    if kind == "dense":  # which has no rank
        return settings.model_copy(update={"kind": kind})
    changes = {"kind": kind, "rank": rank, "activation": "none", "short_conv_width": 0}
    changes |= {"learn_gamma": False, "start": None, "values": "complement"}
    return settings.model_copy(update=changes)


def averaged_as_dense(parts: Sequence[Part], target: Config) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter of the average, its layers approximated as `target` stores them.

    Args:
        parts: of one model.
        target: from `decomposed_target`.

    Raises:
        CheckpointError: a weight isn't finite.
        ConfigError: a layer's kind approximates no matrix.
    """
    dtype = NUMPY[target.train.param_dtype]
    layers = projections(target)
    of_layers = {f"{each.name}.{suffix}" for each in layers for suffix in each.tensors() if suffix != "bias"}
    with reading(parts) as reads:
        for name in parameter_table(target):
            if name not in of_layers:
                yield name, mean(parts, reads, name).astype(dtype)

        def compute(own: tuple[Projection, ...]) -> dict[str, np.ndarray]:
            layer, *theirs = own
            weight = sum(
                part.share * each.merged(layer_values(part, each, read))
                for part, each, read in zip(parts, theirs, reads, strict=True)
            )
            return _decomposed(layer, np.asarray(weight), dtype)

        together = zip(layers, *(projections(each.checkpoint.config) for each in parts), strict=True)
        for layer, values in zip(layers, side_by_side(compute, together), strict=True):
            yield from ((f"{layer.name}.{suffix}", value) for suffix, value in values.items())


def _decomposed(layer: Projection, weight: np.ndarray, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return the tensors of a layer that approximates a weight, but for its bias, as they are stored."""
    values, tensors = layer.approximated(weight), layer.tensors()
    if values is None:
        raise ConfigError(
            f"--as-dense: {layer.name} is to be of kind {layer.settings.kind}, which approximates no matrix; expected "
            "one that does in `decomposes_as`; correct the extension, or leave the option out"
        )
    return {name: value if tensors[name].integer else value.astype(dtype) for name, value in values.items()}
