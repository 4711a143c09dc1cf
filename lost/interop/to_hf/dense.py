"""Merging of linear projections into dense matrices: of all, or of adapters alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from lost.checkpoint import Checkpoint
from lost.config import Config
from lost.errors import ConfigError
from lost.interop.to_hf.check import compare, own_scores
from lost.model.adapted import base_config, dense_twin
from lost.model.parameters import projections
from lost.storage.arrays import NamedArrays


def merge(source: Checkpoint, form: str, tokens: Sequence[int], backend: str) -> Config:
    """Return the configuration of the equivalent model without adapters, or any other layers but dense ones.

    It is returned once that model gives the source's log-probabilities.

    Args:
        source: a checkpoint, whose parameters `merged` merges.
        form: what `lost convert --to` was asked for: `hf` and `mlx-lm` keep other layers as they are.
        tokens: to compare the two on.
        backend: computes the log-probabilities.

    Raises:
        ConfigError: as `merged_config`.
        ExportError: they differ.
    """
    target = base_config(source.config) if form in ("hf", "mlx-lm") else merged_config(source.config, form)
    compare(
        own_scores(source.config, source.parameters(), tokens, backend),
        own_scores(target, merged(source.config, target, source.parameters()), tokens, backend),
        "the merged model's",
    )
    return target


def merged_config(config: Config, form: str = "dense") -> Config:
    """Return the configuration of the equivalent dense model.

    Args:
        config: the model's.
        form: as in `merge`.

    Raises:
        ConfigError: a projection has an activation inside, so that no matrix is equivalent to it.
    """
    if mixing := [each for each in projections(config) if each.earlier_tokens]:
        raise ConfigError(
            f"--to {form}: {len(mixing)} projections read earlier tokens, {mixing[0].name} among them "
            f"(projection.short_conv_width = {mixing[0].settings.short_conv_width}), so no matrix is equivalent; "
            "expected 0; use --to hf or --to mlx-lm, which keep the layers as they are"
        )
    nonlinear = [each for each in projections(config) if each.has_activation]
    if nonlinear:
        raise ConfigError(
            f"--to {form}: {len(nonlinear)} projections have an activation inside, {nonlinear[0].name} among them "
            f"({nonlinear[0].settings.activation}), so no matrix is equivalent; expected projection.activation = none "
            "in all; use --to hf or --to mlx-lm, which keep the layers as they are"
        )
    return dense_twin(config)


def merged(config: Config, target: Config, arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of the same model with dense matrices in some places, float32, computed in float64.

    Args:
        config: of the model whose parameters `arrays` are.
        target: of the other one.
        arrays: in any order; those of a projection are held until it is complete.
    """
    pairs = zip(projections(config), projections(target), strict=True)
    needed = {each.name: each for each, other in pairs if each.settings.kind != other.settings.kind}
    held: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays:
        owner, _, suffix = name.rpartition(".")
        if owner not in needed:
            yield name, array if array.dtype == np.int32 else array.astype(np.float32)
            continue
        values = held.setdefault(owner, {})
        values[suffix] = array if array.dtype == np.int32 else array.astype(np.float64)
        if values.keys() == needed[owner].tensors().keys():
            whole = held.pop(owner)
            yield f"{owner}.weight", needed[owner].merged(whole).astype(np.float32)
            if "bias" in whole:
                yield f"{owner}.bias", whole["bias"].astype(np.float32)
