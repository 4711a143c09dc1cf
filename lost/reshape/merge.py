"""Averages of checkpoints: of one run at several steps, or of runs that went apart from one start.

All weights are averaged entry by entry, factors of layers too. The product of averaged factors isn't the average of
their products: models of one start have their factors in one order, so that both are near, and `likeness.layer_gaps`
says how near.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lost import checkpoint
from lost.checkpoint import Checkpoint, Origin, TrainState
from lost.checkpoint.lineage import kept_of_part
from lost.checkpoint.verify import check_fits
from lost.config import Config
from lost.errors import CheckpointError
from lost.interop.rewrite import NUMPY
from lost.interop.special_tokens import own_tokenizer
from lost.model.parameters import parameter_table
from lost.projections import Projection
from lost.storage.arrays import NOT_FINITE, NamedArrays, digest_of, is_finite
from lost.storage.nofollow import resolved
from lost.storage.tensors import tensors_by_name

Read = Callable[[str], np.ndarray]
"""Returns an array of a checkpoint by its name, as it is stored."""
_FLOOR = 1e-3  # of an array's mean Fisher information, added to every entry: where a text says nothing, shares decide


@dataclass(frozen=True)
class Part:
    """A checkpoint that is averaged with others.

    Attributes:
        checkpoint: verified.
        share: of the average; those of all parts add up to 1.
        fisher: diagonal Fisher information of each trained parameter, float32, by which its entries count too; None:
            all count alike.
    """

    checkpoint: Checkpoint
    share: float
    fisher: Mapping[str, np.ndarray] | None = None


@contextmanager
def reading(parts: Sequence[Part]) -> Iterator[list[Read]]:
    """Open the arrays of each part, of which one at a time is read."""
    with ExitStack() as stack:
        yield [stack.enter_context(tensors_by_name(each.checkpoint.array_files(checkpoint.MODEL))) for each in parts]


def averaged(parts: Sequence[Part]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter of the average, computed in float64, in the first part's types; indices are the first's.

    Args:
        parts: of one model, with the same indices (`likeness.check_alike`).

    Raises:
        CheckpointError: a weight isn't finite.
    """
    with reading(parts) as reads:
        for name, row in parameter_table(parts[0].checkpoint.config).items():
            yield name, reads[0](name) if row.integer else mean(parts, reads, name).astype(NUMPY[row.dtype])


def mean(parts: Sequence[Part], reads: Sequence[Read], name: str) -> np.ndarray:
    """Return the average of a parameter, float64: sum of share F W over that of share F, with F = 1 without Fisher.

    There is none of what a part didn't train, as beside adapters.

    Raises:
        CheckpointError: a weight isn't finite.
    """
    weights: list[np.ndarray | float] = [each.share for each in parts]
    fishers = [each.fisher[name].astype(np.float64) for each in parts if each.fisher and name in each.fisher]
    if len(fishers) == len(parts):
        floor = _FLOOR * float(np.mean(fishers)) + np.finfo(np.float32).tiny
        weights = [each.share * (fisher + floor) for each, fisher in zip(parts, fishers, strict=True)]
    total = sum(
        weight * finite(each, name, read(name)) for weight, each, read in zip(weights, parts, reads, strict=True)
    )
    return np.asarray(total / sum(weights))


def layer_values(part: Part, projection: Projection, read: Read) -> dict[str, np.ndarray]:
    """Return the tensors of a part's projection by suffix, float64 but for indices.

    Raises:
        CheckpointError: a weight isn't finite.
    """
    names = {suffix: f"{projection.name}.{suffix}" for suffix in projection.tensors()}
    return {
        suffix: read(name) if projection.tensors()[suffix].integer else finite(part, name, read(name))
        for suffix, name in names.items()
    }


def finite(part: Part, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array in float64.

    Raises:
        CheckpointError: an entry isn't finite.
    """
    if not is_finite(array):
        raise CheckpointError(
            f"{part.checkpoint.path}: {name} {NOT_FINITE}; expected weights to average; leave this checkpoint out"
        )
    return array.astype(np.float64)


def write_merged(parts: Sequence[Part], path: Path, config: Config, arrays: NamedArrays) -> Checkpoint:
    """Write what parts were merged into as a checkpoint of weights alone; one that is at `path` is replaced.

    Args:
        parts: as its origin names them.
        path: of the checkpoint.
        config: of the merged model.
        arrays: its parameters.

    Raises:
        CheckpointError: as the arrays raise it, or what was read back is not what was written, or not of that model.
        StorageError: the disk refused.
    """
    written = checkpoint.write(path, arrays, (), config, _progress(parts), own_tokenizer(parts[0].checkpoint))
    check_fits(written)
    return written


def _progress(parts: Sequence[Part]) -> TrainState:
    """Return that of the part which was trained furthest, without what only its own weights had."""
    furthest = max((each.checkpoint.progress for each in parts), key=lambda progress: progress.tokens)
    data = {each.checkpoint.progress.data for each in parts}
    origins = tuple(map(_origin, parts))
    whole = Origin(" + ".join(each.path for each in origins), None, "", parts=origins)
    return TrainState(
        step=furthest.step,
        samples=furthest.samples,
        tokens=furthest.tokens,
        seconds=furthest.seconds,
        data=data.pop() if len(data) == 1 else "",
        origin=whole,
    )


def _origin(part: Part) -> Origin:
    """Return where a part comes from."""
    progress, data = part.checkpoint.progress, part.checkpoint.config.data
    return Origin(
        str(resolved(part.checkpoint.path)),
        progress.step,
        digest_of(part.checkpoint.parameters()),
        before=kept_of_part(progress.origin),
        data=progress.data,
        data_path=data.path or " + ".join(data.mixture or ()),
        share=part.share,
    )
