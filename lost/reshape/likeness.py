"""Whether models can be averaged: one model, one vocabulary, one start; and how far averaged layers are off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lost.config import Config
from lost.errors import CheckpointError, ConfigError, DataError
from lost.interop.layout import SEQ_LEN
from lost.interop.to_hf.description import model_config
from lost.model.parameters import EMBEDDING, parameter_table, projections
from lost.projections import Projection
from lost.reshape.merge import Part, Read, finite, layer_values, reading
from lost.tokenizer import same_ids
from lost.utils.randomness import normal

_OF_THE_START = {"model": {"initializer_range"}, "projection": {"init_std", "start", "select", "values"}}
_RELATED = 0.1  # of models with other seeds the cosine is 0, of a run's steps far more
_INPUTS = 32
_MOST_SHOWN = 8  # differences in a section


@dataclass(frozen=True)
class LayerGap:
    """How far a merged layer is from the average of its parts.

    Attributes:
        name: of the projection.
        gap: ||y - mean of y_i|| / ||mean of y_i||, of outputs for normal inputs: 0 for a plain matrix.
    """

    name: str
    gap: float


def check_alike(parts: Sequence[Part], layers: bool = True) -> None:
    """Check that parts are of one model, with one vocabulary, and start from one model.

    Args:
        parts: two or more.
        layers: whether their layers must be stored alike too; else they are merged as matrices.

    Raises:
        ConfigError: they differ in the model, or in how it is stored; the message names every key.
        CheckpointError: they keep other channels, or come from other starts.
        DataError: they have other tokenizers.
    """
    first = parts[0].checkpoint
    for part in parts[1:]:
        other = part.checkpoint
        sections = ("model", "projection") if layers else ("model",)
        if not (layers and _same_model(first.config, other.config)) and (
            differing := [text for each in sections for text in _differences(each, first.config, other.config)]
        ):
            hint = "; or merge the layers as matrices, with --as-dense RANK" if layers else ""
            raise ConfigError(
                f"{other.path} is of another model than {first.path}: {'; '.join(differing)}. Expected the same; leave "
                f"it out{hint if all(text.startswith('projection') for text in differing) else ''}"
            )
        if not same_ids(first.tokenizer(), other.tokenizer()):
            raise DataError(
                f"{other.path} has another tokenizer than {first.path}; expected the same ids: train both on text "
                "prepared with one, by `lost prepare --tokenizer`"
            )
    _check_arrays(parts, layers)


def _check_arrays(parts: Sequence[Part], layers: bool) -> None:
    first = parts[0]
    with reading(parts) as reads:
        for part, read in zip(parts[1:], reads[1:], strict=True):
            for name, row in parameter_table(first.checkpoint.config).items() if layers else ():
                if row.integer and not np.array_equal(reads[0](name), read(name)):
                    raise CheckpointError(
                        f"{name} of {part.checkpoint.path} isn't that of {first.checkpoint.path}: they keep other "
                        "channels or places; expected the same, as in runs of one start; merge the layers as matrices, "
                        "with --as-dense RANK"
                    )
            likeness = _cosine(finite(first, EMBEDDING, reads[0](EMBEDDING)), finite(part, EMBEDDING, read(EMBEDDING)))
            if likeness < _RELATED:
                raise CheckpointError(
                    f"{part.checkpoint.path} didn't begin as {first.checkpoint.path} did: the cosine of their "
                    f"embeddings is {likeness:.2f}, and entries that don't belong together have no average; expected "
                    f"{_RELATED} or more: steps of one run, or branches of one (--branch-from, --init-from)"
                )


def layer_gaps(parts: Sequence[Part], merged: Part) -> list[LayerGap]:
    """Return how far each layer of a merged model is from the average of the parts' layers, by their outputs.

    Args:
        parts: that were merged.
        merged: what they became.
    """
    stacks = [projections(each.checkpoint.config) for each in (*parts, merged)]
    with reading([*parts, merged]) as reads:
        return [LayerGap(own[-1].name, _gap([*parts, merged], own, reads)) for own in zip(*stacks, strict=True)]


def _gap(models: Sequence[Part], layers: Sequence[Projection], reads: Sequence[Read]) -> float:
    """Return the gap between the last model's layer and the average of the others'."""
    inputs = normal(0, layers[0].name, (1, _INPUTS, layers[0].in_features), 1.0)
    *outputs, own = (
        layer.forward(inputs, layer_values(model, layer, read))
        for model, layer, read in zip(models, layers, reads, strict=True)
    )
    wanted = sum(model.share * each for model, each in zip(models, outputs, strict=False))
    return float(np.linalg.norm(own - wanted) / max(float(np.linalg.norm(wanted)), 1e-300))


def _same_model(one: Config, other: Config) -> bool:
    """Whether two configurations, which may spell it differently, are of one model, but for its start."""
    described = [{**model_config(each, 0, ""), SEQ_LEN: None, "initializer_range": None} for each in (one, other)]
    return parameter_table(one) == parameter_table(other) and described[0] == described[1]


def _differences(section: str, one: Config, other: Config) -> list[str]:
    """Return in which keys two configurations differ, those of the start left out; of overrides, one by one."""

    def flat(config: Config) -> dict[str, Any]:
        values: dict[str, Any] = getattr(config, section).model_dump(mode="json", exclude=_OF_THE_START[section])
        overrides = values.pop("overrides", {})
        order = {"overrides, in order": list(overrides)} if len(overrides) > 1 else {}  # the last that matches wins
        return values | {f"overrides[{name!r}]": each for name, each in overrides.items()} | order

    first, second = flat(one), flat(other)
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    shown = [f"{section}.{key} = {second.get(key)!r}, not {first.get(key)!r}" for key in keys[:_MOST_SHOWN]]
    return [*shown, f"{section}: {len(keys) - _MOST_SHOWN} more"] if len(keys) > _MOST_SHOWN else shown


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-300))
