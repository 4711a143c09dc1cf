"""Memory that a run takes where it begins, as some adapters begin by what its data shows of the base model.

It then holds the base model beside its own weights, and neither gradients nor moments yet.
"""

from dataclasses import dataclass

from lost.config import Config
from lost.engine import inference_config
from lost.model.adapted import adapters, base_config
from lost.model.parameters import parameter_table
from lost.planning.memory import mlx, torch
from lost.projections.adapters import Adapter

_TOKENS = 1 << 11  # at once: enough to keep a device busy, and less than training computes where memory is short


@dataclass(frozen=True)
class Measuring:
    """Bytes that measuring takes beside a run's own weights.

    Attributes:
        kind: of the adapters that begin by it, one of them.
        base: the base model's weights.
        beside: what it computes, and what is measured of a block's layers.
    """

    kind: str
    base: int
    beside: int


def measuring_config(config: Config) -> Config:
    """Return the configuration of the base model as it is measured.

    It is held in the type that the run has it frozen in; but in no coarser one than the run computes in.
    """
    train = config.train
    kept = train.frozen_dtype or train.param_dtype
    kept = "float32" if train.compute_dtype == "float32" else kept
    return inference_config(base_config(config)).replace("train", param_dtype=kept)


def measured_at_once(config: Config) -> int:
    """Return how many sequences are measured at once: no more than are trained."""
    return min(config.train.micro_batch, max(1, _TOKENS // config.data.seq_len))


def measuring(config: Config, backend: str, device: str) -> Measuring | None:
    """Count what measuring takes; None: no layer begins by anything measured.

    Args:
        config: its vocabulary and its micro-batch known.
        backend: torch or mlx.
        device: as the backend names it.
    """
    layers = [each for each in adapters(config) if each.begins_by]
    if not layers:
        return None
    base, count = measuring_config(config), measured_at_once(config)
    if not any(each.begins_by == "gradients" for each in layers):  # only then is anything saved for a backward pass
        base = base.replace("train", checkpoint_activations="full")
    computed = (mlx if backend == "mlx" else torch).activations(base, device, count)
    entries: dict[str, int] = {}
    for each in layers:
        block = each.name.rsplit(".", 2)[0]
        entries[block] = entries.get(block, 0) + _entries(each)
    copies = 2 if device == "cpu" else 1  # on a device, and for numpy, in float64
    weights = sum(row.bytes for row in parameter_table(base).values())
    return Measuring(layers[0].settings.kind, weights, computed + 8 * copies * max(entries.values()))


def _entries(layer: Adapter) -> int:
    """Count the entries of what a layer begins by."""
    return layer.in_features * (layer.in_features if layer.begins_by == "inputs" else layer.out_features)
