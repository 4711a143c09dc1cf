"""Projections: the ways to store a linear map's weight, one file a kind, all derived from `Projection`."""

from typing import cast

from lost.config import ProjectionSettings
from lost.config.registry import PROJECTIONS, Registry
from lost.projections.adapters import Eva, Lora, LoraSb, LoraXs, Pissa, SvFit
from lost.projections.base import Projection, Tensor
from lost.projections.cola import Cola
from lost.projections.dense import Dense
from lost.projections.lost import Lost
from lost.projections.lowrank import LowRank
from lost.projections.sltrain import SlTrain

KINDS = cast(Registry[type[Projection]], PROJECTIONS)
KINDS.update(dense=Dense, lowrank=LowRank, cola=Cola, sltrain=SlTrain, lost=Lost)
KINDS.update(lora=Lora, pissa=Pissa, eva=Eva, lora_xs=LoraXs, lora_sb=LoraSb, svfit=SvFit)


def projection(
    name: str, in_features: int, out_features: int, settings: ProjectionSettings, bias: bool = False
) -> Projection:
    """Return the projection `name`, of the kind that its settings choose."""
    return KINDS[settings.kind](name, in_features, out_features, settings, bias)


__all__ = ["KINDS", "Projection", "Tensor", "projection"]
