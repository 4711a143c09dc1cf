"""Other sizes of a model: as wide, deep and low in rank in proportion as the one that a configuration describes."""

import math
from collections.abc import Iterator

from lost.config import Config

_FACTORS = [2 ** (step / 4) for step in range(-12, 17)]  # of width and depth: an eighth to sixteen times
_MULTIPLE = 8  # of widths and ranks: products of other sizes are slow on accelerators


def shapes(config: Config) -> Iterator[Config]:
    """Yield the configuration in other sizes, each once, itself among them; heads stay as wide as they are."""
    heads, blocks = config.model.key_value_heads, config.model.num_hidden_layers
    sizes = {
        (max(1, round(factor * heads)), max(1, round_(factor * blocks)))
        for factor in _FACTORS
        for round_ in (math.floor, math.ceil)
    }
    yield from (resized(config, *size) for size in sorted(sizes))


def resized(config: Config, key_value_heads: int, blocks: int) -> Config:
    """Return the configuration with so many blocks, and key and value heads; other widths in proportion to these."""
    model, projection = config.model, config.projection
    factor = key_value_heads / model.key_value_heads
    if factor == 1:
        return config.replace("model", num_hidden_layers=blocks)
    heads = model.num_attention_heads // model.key_value_heads * key_value_heads
    hidden = heads * model.head_width if model.head_dim is None else _multiple(factor * model.hidden_size)
    overrides = {
        pattern: settings | ({"rank": _multiple(factor * settings["rank"])} if "rank" in settings else {})
        for pattern, settings in projection.overrides.items()
    }
    wider = config.replace(
        "model",
        hidden_size=hidden,
        intermediate_size=_multiple(factor * model.intermediate_size),
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=None if model.num_key_value_heads is None else key_value_heads,
    )
    return wider.replace("projection", rank=_multiple(factor * projection.rank), overrides=overrides)


def _multiple(width: float) -> int:
    """Return the largest multiple of 8 within a width, so that a rank stays within its matrix; of a small one all."""
    return max(1, int(width) // _MULTIPLE * _MULTIPLE if width >= _MULTIPLE else int(width))
