"""Conversion of imported models to checkpoints: unchanged, or with projections decomposed to LOST layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint, TrainState
from lost.config import Config, DType, ModelConfig
from lost.errors import CheckpointError, UserError
from lost.interop.from_hf.folder import Imported
from lost.interop.rewrite import NUMPY, cast, check_destination, compare, follow
from lost.method.compress import LayerFit, approximate, fitting_rank, layer_fit, stored
from lost.model.parameters import layer_projections, parameter_table, projections
from lost.projections import Projection
from lost.storage.tensors import PART_BYTES
from lost.utils.parallel import side_by_side

InputMoments = Callable[[Sequence[str]], dict[str, np.ndarray]]
"""Maps projections' names to the second moments of their inputs, as a backend measures them on a calibration text."""

_MOMENTS_BYTES = 1 << 30  # of second moments held at once; each further gigabyte takes another pass over the text
# Projections with the same input as another one.
_READS_WITH = {
    "self_attn.k_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.q_proj",
    "mlp.up_proj": "mlp.gate_proj",
}


def write_unchanged(
    imported: Imported,
    path: Path,
    dtype: DType | None = None,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
) -> Checkpoint:
    """Write a folder's model as a checkpoint of step 0, and compare every array with the source's.

    Args:
        imported: the source.
        path: a folder that doesn't exist yet.
        dtype: of the weights; None: unchanged.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.

    Raises:
        CheckpointError: something is at `path`, or the written arrays aren't the intended ones.
        StorageError: the disk refused.
    """
    check_destination(path, imported.path, overwrite)
    config = follow(imported.config, dtype)
    arrays = cast(imported.parameters(), dtype)
    written = checkpoint.write(path, arrays, (), config, TrainState(), imported.tokenizer, part_bytes)
    compare(cast(imported.parameters(), dtype), written.parameters())
    return written


def write_decomposed(
    imported: Imported,
    path: Path,
    config: Config,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
    input_moments: InputMoments | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> tuple[Checkpoint, list[LayerFit]]:
    """Write a folder's model with LOST layers, without activation, that approximate its projections.

    Args:
        imported: the source.
        path: a folder that doesn't exist yet.
        config: from `decomposed_config`.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.
        input_moments: weights the approximation by the projections' inputs; None: unweighted.
        log: receives progress messages.

    Returns:
        The checkpoint, and how well each projection fits.

    Raises:
        CheckpointError: something is at `path`, or the written arrays aren't the intended ones.
        StorageError: the disk refused.
    """
    check_destination(path, imported.path, overwrite)
    fits: list[LayerFit] = []
    arrays = _decomposed(imported, config, input_moments, fits, log)
    return checkpoint.write(path, arrays, (), config, TrainState(), imported.tokenizer, part_bytes), fits


def decomposed_config(config: Config, rank: int, density: float) -> Config:
    """Return a dense configuration with its projections replaced by LOST layers.

    Args:
        config: of the imported model.
        rank: of every projection, or the largest that it allows.
        density: share of input channels to keep.

    Raises:
        UserError: the rank or density is out of range, or a projection isn't dense.
    """
    if rank < 1 or not 0 < density <= 1:
        raise UserError(f"rank = {rank}, density = {density}: expected a rank of at least 1, a density in (0, 1]")
    if others := [each for each in projections(config) if each.settings.kind != "dense"]:
        raise UserError(
            f"--rank {rank}: {others[0].name} is stored as {others[0].settings.kind}; expected plain matrices, which "
            "can be decomposed; leave --rank out"
        )
    overrides = {}
    for each in layer_projections(config, 0):
        if (fitting := fitting_rank(rank, each.out_features, each.in_features)) < rank:
            overrides[f"*.{_part(each.name)}"] = {"rank": fitting}
    settings = {"kind": "lost", "rank": rank, "density": density, "activation": "none", "values": "complement"}
    return config.replace("projection", **settings, overrides=overrides)


def _decomposed(
    imported: Imported,
    config: Config,
    input_moments: InputMoments | None,
    fits: list[LayerFit],
    log: Callable[[str], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter, and add how well each projection fits to `fits`."""
    dtype = NUMPY[config.train.param_dtype]
    split = {f"{each.name}.weight" for each in projections(config)}
    for name in parameter_table(imported.config):
        if name not in split:
            yield name, imported.weights.read(name).astype(dtype)
    blocks = config.model.num_hidden_layers
    at_once = _blocks_at_once(config.model) if input_moments else 1
    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        log(f"decomposing block{f's {first + 1} to' if last > first + 1 else ''} {last} of {blocks}")
        parts = [each for block in range(first, last) for each in layer_projections(config, block)]
        measured = [each.name for each in parts if _part(each.name) not in _READS_WITH]
        moments = input_moments(measured) if input_moments else {}
        for name, values, fit in side_by_side(partial(_split, imported, dtype, moments), parts):
            fits.append(fit)
            yield from ((f"{name}.{suffix}", value) for suffix, value in values.items())


def _split(
    imported: Imported, dtype: np.dtype, moments: Mapping[str, np.ndarray], projection: Projection
) -> tuple[str, dict[str, np.ndarray], LayerFit]:
    name, settings = projection.name, projection.settings
    weight, moment = imported.weights.read(f"{name}.weight").astype(np.float64), moments.get(_measured(name))
    if not (np.isfinite(weight).all() and (moment is None or np.isfinite(moment).all())):
        raise CheckpointError(
            f"{imported.path}: {name} or its inputs have values that aren't finite; download the files again"
        )
    values = stored(approximate(weight, settings, moment), dtype)
    return name, values, layer_fit(name, weight, values, settings.gamma, moment)


def _blocks_at_once(model: ModelConfig) -> int:
    widths = (model.hidden_size, model.attention_width, model.hidden_size, model.intermediate_size)
    return max(1, _MOMENTS_BYTES // (8 * sum(width**2 for width in widths)))


def _part(name: str) -> str:
    """Return, for example, self_attn.q_proj for model.layers.0.self_attn.q_proj."""
    return ".".join(name.split(".")[-2:])


def _measured(name: str) -> str:
    """Return the projection whose inputs are measured for this one too."""
    part = _part(name)
    return name.removesuffix(part) + _READS_WITH.get(part, part)
