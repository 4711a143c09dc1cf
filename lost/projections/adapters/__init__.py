"""Adapters: kinds that leave a dense model's weight as it is, and train little beside it."""

from lost.projections.adapters.adapter import Adapter
from lost.projections.adapters.fixed_pair import FixedPair, LoraSb, LoraXs, SvFit
from lost.projections.adapters.trained_pair import Eva, Lora, Pissa

__all__ = ["Adapter", "Eva", "FixedPair", "Lora", "LoraSb", "LoraXs", "Pissa", "SvFit"]
