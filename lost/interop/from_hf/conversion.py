"""Conversion of imported models to checkpoints: unchanged, or with projections decomposed to LOST layers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint, TrainState
from lost.config import Config, DType, ModelConfig
from lost.errors import CheckpointError, UserError
from lost.interop.destination import check_destination
from lost.interop.from_hf.folder import Imported
from lost.interop.rewrite import NUMPY, write_weights
from lost.method.compress import LayerFit, Weighting, approximate, fitting_rank, layer_fit, stored
from lost.model.parameters import layer_projections, parameter_table, projections
from lost.projections import Projection
from lost.storage.tensors import PART_BYTES
from lost.utils.parallel import side_by_side

LINEAR = {"kind": "lost", "activation": "none", "values": "complement"}
"""Settings with which a LOST layer approximates a dense one."""

R = TypeVar("R")
T = TypeVar("T")
InputMoments = Callable[[Sequence[str]], dict[str, np.ndarray]]
"""Maps projections' names to the second moments of their inputs, as a backend measures them on a calibration text."""

_MOMENTS_BYTES = 1 << 30  # of second moments held at once; each further gigabyte takes another pass over the text
# Projections with the same input as another one.
_READS_WITH = {
    "self_attn.k_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.q_proj",
    "mlp.up_proj": "mlp.gate_proj",
}


@dataclass(frozen=True)
class Weightings:
    """What errors are weighted by; by default nothing.

    Attributes:
        moments: measures inputs; None: all directions weigh the same.
        row_gradients: by a projection's name, the squared gradients of its weight added up by rows, (out,); an error
            of an output costs as much, beside the size of what the layer reads.
    """

    moments: InputMoments | None = None
    row_gradients: Mapping[str, np.ndarray] = field(default_factory=dict)


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
    return write_weights(
        path, imported.parameters, imported.config, TrainState(), imported.tokenizer, dtype, part_bytes
    )


def write_decomposed(
    imported: Imported,
    path: Path,
    config: Config,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
    weightings: Weightings = Weightings(),
    log: Callable[[str], None] = lambda text: None,
) -> tuple[Checkpoint, list[LayerFit]]:
    """Write a folder's model with LOST layers, without activation, that approximate its projections.

    Args:
        imported: the source.
        path: a folder that doesn't exist yet.
        config: from `decomposed_config`.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an existing checkpoint.
        weightings: of the errors.
        log: receives progress messages.

    Returns:
        The checkpoint, and how well each projection fits.

    Raises:
        CheckpointError: something is at `path`, or the written arrays aren't the intended ones.
        StorageError: the disk refused.
    """
    check_destination(path, imported.path, overwrite)
    fits: list[LayerFit] = []
    arrays = _decomposed(imported, config, weightings, fits, log)
    return checkpoint.write(path, arrays, (), config, TrainState(), imported.tokenizer, part_bytes), fits


def check_plain(config: Config, option: str) -> None:
    """Check that projections can be decomposed.

    Args:
        config: of the imported model.
        option: that asks for it.

    Raises:
        UserError: one isn't dense.
    """
    if others := [each for each in projections(config) if each.settings.kind != "dense"]:
        raise UserError(
            f"{option}: {others[0].name} is stored as {others[0].settings.kind}; expected plain matrices, which "
            f"can be decomposed; leave {option.split()[0]} out"
        )


def equal_ranks(config: Config, rank: int) -> dict[str, int | None]:
    """Return a rank for every projection, by name: this one, or the largest that the matrix can have."""
    return {each.name: fitting_rank(rank, each.out_features, each.in_features) for each in projections(config)}


def decomposed_config(config: Config, ranks: Mapping[str, int | None], density: float) -> Config:
    """Return a dense configuration with its projections replaced by LOST layers.

    Its overrides are few: for what most blocks have in common, then for single projections.

    Args:
        config: of the imported model.
        ranks: of every projection; None: it stays dense.
        density: share of input channels to keep.
    """
    base = _most_common(rank for rank in ranks.values() if rank is not None)
    overrides: dict[str, dict[str, str | int]] = {}
    parts: dict[str, list[str]] = {}
    for name in ranks:
        parts.setdefault(_part(name), []).append(name)
    singles: dict[str, dict[str, str | int]] = {}
    for part, names in parts.items():
        usual = _most_common(ranks[name] for name in names)
        if usual != base:
            overrides[f"*.{part}"] = _override(usual)
        singles |= {name: _override(ranks[name]) for name in names if ranks[name] != usual}
    return config.replace("projection", **LINEAR, rank=base, density=density, overrides={**overrides, **singles})


def _most_common(ranks: Iterable[T]) -> T:
    """Return the rank that occurs most often, the first of those."""
    return Counter(ranks).most_common(1)[0][0]


def _override(rank: int | None) -> dict[str, str | int]:
    return {"kind": "dense"} if rank is None else {"rank": rank}


def for_each_projection(
    imported: Imported,
    config: Config,
    weightings: Weightings,
    compute: Callable[[Projection, np.ndarray, Weighting], R],
    log: Callable[[str], None],
) -> Iterator[R]:
    """Yield what is computed of each projection's weight (float64) and its weighting, in order.

    Args:
        imported: the source.
        config: describes the projections given to `compute`.
        weightings: of the errors; inputs are measured for a few blocks at a time.
        compute: called in threads.
        log: told which blocks are next.

    Raises:
        CheckpointError: a weight or a weighting isn't finite.
    """
    blocks = config.model.num_hidden_layers
    at_once = _blocks_at_once(config.model) if weightings.moments else 1

    def prepared(moments: Mapping[str, np.ndarray], projection: Projection) -> R:
        name = projection.name
        weight = imported.read(f"{name}.weight").astype(np.float64)
        moment, rows = moments.get(_measured(name)), weightings.row_gradients.get(name)
        if moment is not None and rows is not None:
            rows = rows / max(float(np.trace(moment)), 1e-30)
        weighting = Weighting(moment, rows)
        if not all(each is None or np.isfinite(each).all() for each in (weight, moment, rows)):
            raise CheckpointError(
                f"{imported.path}: {name} or its inputs have values that aren't finite; download the files again"
            )
        return compute(projection, weight, weighting)

    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        log(f"block{f's {first + 1} to' if last > first + 1 else ''} {last} of {blocks}")
        parts = [each for block in range(first, last) for each in layer_projections(config, block)]
        measured = [each.name for each in parts if _part(each.name) not in _READS_WITH]
        moments = weightings.moments(measured) if weightings.moments else {}
        yield from side_by_side(partial(prepared, moments), parts)


def _decomposed(
    imported: Imported,
    config: Config,
    weightings: Weightings,
    fits: list[LayerFit],
    log: Callable[[str], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter, and add how well each projection fits to `fits`."""
    dtype = NUMPY[config.train.param_dtype]
    split = {f"{each.name}.weight" for each in projections(config)}
    for name in parameter_table(imported.config):
        if name not in split:
            yield name, imported.read(name).astype(dtype)
    for name, values, fit in for_each_projection(
        imported, config, weightings, partial(_split, dtype), lambda blocks: log(f"decomposing {blocks}")
    ):
        fits += fit
        yield from ((f"{name}.{suffix}", value) for suffix, value in values.items())


def _split(
    dtype: np.dtype, projection: Projection, weight: np.ndarray, weighting: Weighting
) -> tuple[str, dict[str, np.ndarray], list[LayerFit]]:
    """Return a projection's tensors, and how well they fit its weight; a dense one's are the weight."""
    name, settings = projection.name, projection.settings
    if settings.kind == "dense":
        return name, {"weight": weight.astype(dtype)}, []
    values = stored(approximate(weight, settings, weighting), dtype)
    return name, values, [layer_fit(name, weight, values, settings.gamma, weighting.moment)]


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
