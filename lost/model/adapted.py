"""The configurations of a model's relatives: of what its adapters adapt, and with every projection dense."""

from typing import Any

from lost.config import Config
from lost.errors import ConfigError
from lost.model.parameters import Architecture, layer_projections
from lost.projections import KINDS
from lost.projections.adapters import Adapter


def adapters(config: Architecture) -> list[Adapter]:
    """Return the projections that adapt a dense weight."""
    layers = range(config.model.num_hidden_layers)
    return [each for layer in layers for each in layer_projections(config, layer) if isinstance(each, Adapter)]


def check_used(config: Config) -> None:
    """Refuse settings of adapters that no layer reads, and so do nothing.

    Raises:
        ConfigError: bits without a frozen weight, or ranks that are to move where no kind moves them.
    """
    layers, own = adapters(config), config.projection
    if own.bits and not layers:
        raise ConfigError(
            f"projection.bits = {own.bits}: no layer adapts a frozen weight (projection.kind = {own.kind}), so none "
            "would have so few bits; expected a kind that does, such as lora; choose one, or leave bits out"
        )
    if own.rho > 1 and not any(each.moves_ranks for each in layers):
        kinds = " or ".join(kind for kind, each in KINDS.items() if issubclass(each, Adapter) and each.moves_ranks)
        raise ConfigError(
            f"projection.rho = {own.rho:g}: ranks move between layers of {kinds} alone (projection.kind = {own.kind}); "
            "expected that kind; choose it, or leave rho out"
        )


def dense_twin(config: Config) -> Config:
    """Return the configuration with every projection dense."""
    return config.replace("projection", kind="dense", overrides={})


def unquantized(config: Config) -> Config:
    """Return the configuration with every weight as a matrix, which few bits would be of."""
    overrides = {pattern: {**own, "bits": None} for pattern, own in config.projection.overrides.items()}
    return config.replace("projection", bits=None, overrides=overrides)


def base_config(config: Config) -> Config:
    """Return the configuration of the model that is adapted: a dense layer in each adapter's place."""

    def dense(settings: dict[str, Any]) -> dict[str, Any]:
        kind = settings.get("kind")
        return {**settings, "kind": "dense"} if kind and issubclass(KINDS[kind], Adapter) else settings

    own = config.projection
    overrides = {pattern: dense(settings) for pattern, settings in own.overrides.items()}
    changed = dense({"kind": own.kind})
    return config.replace("projection", **changed, overrides=overrides).replace("train", frozen_dtype=None)
