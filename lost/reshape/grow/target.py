"""What a model is to become: the sizes that are asked for, the configuration that has them, which block is of which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lost.config import Config, ProjectionConfig, ProjectionSettings
from lost.errors import UserError
from lost.model.load import validate
from lost.model.parameters import layer_projections
from lost.projections import Projection
from lost.projections.lost import Lost
from lost.reshape.grow.layer import RANKED, SPARSE
from lost.utils.wording import did_you_mean

Depth = Literal["stack", "interleave", "identity"]
_OF_MODEL = {"layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size"}
_OF_PROJECTION = {"rank": RANKED, "density": SPARSE}  # with the kinds that have it
_MOST = 1_000_000
INTO_THE_STREAM = ("o_proj", "down_proj")
"""Projections whose outputs are added to the residual stream."""
KEYS = (*_OF_MODEL, *_OF_PROJECTION)


def sizes(assignments: Sequence[str]) -> dict[str, int | float]:
    """Return the sizes that `KEY=VALUE` name.

    Raises:
        UserError: a key is unknown or twice there, or its value no number.
    """
    asked: dict[str, int | float] = {}
    for text in assignments:
        key, _, value = text.partition("=")
        if "," in value:
            raise UserError(f"--grow {text}: expected one KEY=VALUE; give each its own --grow")
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or (
                "kept channels are a share of the inputs: density; " if key == "channels" else ""
            )
            raise UserError(f"--grow {text}: {hint}expected KEY=VALUE, with one of {', '.join(KEYS)}; correct it")
        if key in asked:
            raise UserError(f"--grow {text}: {key} was given before, as {asked[key]}; leave one out")
        asked[key] = _number(key, value)
    return asked


def _number(key: str, value: str) -> int | float:
    try:
        number = float(value) if key == "density" else int(value)
        if 0 < number <= (1 if key == "density" else _MOST):
            return number
    except ValueError:
        pass
    what = "a share, above 0 and at most 1" if key == "density" else f"a whole number from 1 to {_MOST:,}"
    raise UserError(f"--grow {key}={value:.40}: expected {what}; correct it")


@dataclass(frozen=True)
class Target:
    """A model and what it becomes.

    Attributes:
        old: its configuration.
        new: the configuration of the grown one.
        blocks: of each new block, the old one that it is of.
        silent: new blocks that add nothing to what goes through them yet.
    """

    old: Config
    new: Config
    blocks: tuple[int, ...]
    silent: frozenset[int] = frozenset()

    @property
    def exact(self) -> bool:
        """Whether the grown model computes what the old one did, but for rounding."""
        return all(
            number in self.silent or self.blocks.index(each) == number for number, each in enumerate(self.blocks)
        )

    def layers(self) -> Iterator[tuple[int, list[tuple[Projection, Projection]]]]:
        """Yield each new block's number, and its projections, each beside the one that it grew from."""
        for number, source in enumerate(self.blocks):
            pairs = zip(layer_projections(self.old, source), layer_projections(self.new, number), strict=True)
            yield number, list(pairs)


def target(config: Config, asked: Mapping[str, int | float], depth: Depth = "stack") -> Target:
    """Return what a model becomes.

    Args:
        config: of it.
        asked: sizes by key, of `KEYS`.
        depth: which block each new one is a copy of. stack: the whole stack again and again, as far as it goes
            (G_stack, arXiv 2405.15319). interleave: each block several times in a row. identity: so too, but only the
            first of them adds to the residual stream; the outputs of the others start at zero (arXiv 2401.02415).

    Raises:
        UserError: it can't become so.
    """
    raw = config.model_dump()
    raw["model"] |= _model(config, asked)
    wide = validate(raw)
    old, new = config.model.num_hidden_layers, wide.model.num_hidden_layers
    blocks = tuple(number % old if depth == "stack" else number * old // new for number in range(new))
    copies = frozenset(number for number, block in enumerate(blocks) if blocks.index(block) != number)
    raw["projection"] = _projection(Target(config, wide, blocks), asked).model_dump()
    result = Target(config, validate(raw), blocks, copies if depth == "identity" else frozenset())
    for _, pairs in result.layers() if result.silent else ():
        _check_wakes(*(new for _, new in pairs if new.name.endswith(INTO_THE_STREAM)))
    return result


def _check_wakes(*layers: Projection) -> None:
    """Refuse layers that can't start at zero, or would stay there."""
    for each in layers:
        settings = each.settings
        if settings.kind not in (*RANKED, "dense"):
            raise UserError(
                f"{each.name} is of kind {settings.kind}, of which isn't known how its outputs start at zero; expected "
                f"{', '.join(RANKED)} or dense; choose --layers-by stack or interleave"
            )
        if (settings.kind, settings.activation_at, settings.activation) == ("lost", "output", "relu2"):
            raise UserError(
                f"{each.name} ends in relu2, which has no gradient at zero: a block that starts there would stay; "
                "expected another activation; choose --layers-by stack or interleave"
            )


def _model(config: Config, asked: Mapping[str, int | float]) -> dict[str, Any]:
    """Return the keys of the section `model` that change: with the width, heads of the width that they have."""
    model = config.model
    changes: dict[str, Any] = {
        name: _larger(key, asked[key], getattr(model, name)) for key, name in _OF_MODEL.items() if key in asked
    }
    times, rest = divmod(changes.get("hidden_size", model.hidden_size), model.hidden_size)
    if rest:
        raise UserError(
            f"--grow hidden={asked['hidden']}: the model is {model.hidden_size} wide, and only where every unit has as "
            "many copies do norms divide by what they did; expected a multiple, such as "
            f"{(times + 1) * model.hidden_size}; choose one"
        )
    if times > 1:
        changes["num_attention_heads"] = times * model.num_attention_heads
        changes["num_key_value_heads"] = model.num_key_value_heads and times * model.num_key_value_heads
    return changes


def _larger(key: str, value: float, before: float) -> float:
    if value <= before:
        raise UserError(
            f"--grow {key}={value}: it is {before} already; expected more, as nothing shrinks here; raise it"
        )
    return value


def _projection(wide: Target, asked: Mapping[str, int | float]) -> ProjectionConfig:
    """Return the section `projection` with which each new layer has the settings of the one that it is of.

    The section's rank and density are raised, and with them those of the layers whose override has none of its own. A
    layer whose matrix is too small for the rank gets the largest that it can have.

    Args:
        wide: the target, but for rank and density.
        asked: sizes by key.
    """
    section = wide.old.projection
    changes = {key: _larger(key, asked[key], getattr(section, key)) for key in _OF_PROJECTION if key in asked}
    if section.kind == "sltrain":
        changes["alpha"] = _alpha(section, changes.get("rank", section.rank))
    raised = section.model_copy(update=changes)
    layers = [(old, _with_settings(old, new, raised)) for _, pairs in wide.layers() for old, new in pairs]
    _check_reached(layers, asked)
    overrides = dict(section.overrides)
    for _, new in layers:
        if raised.settings_for(new.name) != new.settings:
            overrides.pop(new.name, None)  # the last match wins
            own = new.settings.model_dump().items()
            overrides[new.name] = {key: value for key, value in own if value != getattr(raised, key)}
    return raised.model_copy(update={"overrides": overrides})


def _check_reached(layers: Sequence[tuple[Projection, Projection]], asked: Mapping[str, int | float]) -> None:
    """Refuse a rank or density that no layer comes to."""
    for key, kinds in _OF_PROJECTION.items():
        if key not in asked or any(
            new.settings.kind in kinds and getattr(old.settings, key) != getattr(new.settings, key) == asked[key]
            for old, new in layers
        ):
            continue
        most = max((_largest_rank(new) for _, new in layers if new.settings.kind in RANKED), default=0)
        if key == "rank" and 0 < most < asked[key]:
            raise UserError(
                f"--grow rank={asked[key]}: no layer allows more than {most}; expected at most that; lower it"
            )
        raise UserError(
            f"--grow {key}={asked[key]}: no layer has projection.{key}, by its kind or as its override has its own; "
            f"expected layers of kind {', '.join(kinds)}; leave it out"
        )


def _largest_rank(layer: Projection) -> int:
    return min(layer.in_features, layer.out_features)


def _with_settings(old: Projection, new: Projection, raised: ProjectionConfig) -> Projection:
    """Return `new` with the settings of `old`, raised.

    Raises:
        UserError: it would keep fewer channels.
    """
    settings = raised.settings_for(old.name)
    if settings.kind in RANKED and settings.rank > _largest_rank(new):
        settings = settings.model_copy(update={"rank": _largest_rank(new)})
    if settings.kind == "sltrain":
        settings = settings.model_copy(update={"alpha": _alpha(old.settings, settings.rank)})
    new = replace(new, settings=settings)
    if isinstance(old, Lost) and isinstance(new, Lost) and new.channels < old.channels:
        align = settings.align
        raise UserError(
            f"--grow: with rank {settings.rank}, {new.name} would keep {new.channels} channels, so that both are a "
            f"multiple of projection.align = {align}, and it has {old.channels}; expected no fewer; choose a rank such "
            f"as {old.settings.rank + align * (-(-(settings.rank - old.settings.rank) // align))}, or grow density too"
        )
    return new


def _alpha(settings: ProjectionSettings, rank: float) -> float:
    """Return sltrain's alpha with which a larger rank leaves the weight of its pair, alpha / rank, as it is."""
    return settings.alpha * rank / settings.rank
