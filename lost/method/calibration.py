"""Second moments of layers' inputs, which weight a decomposition by what the layers actually read."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class SecondMoment(Protocol):
    """A backend's running sum of x x^T."""

    def add(self, x: Any) -> None:
        """Add inputs (..., in), on the device."""

    def mean(self) -> np.ndarray:
        """Return the mean so far, (in, in) float64."""


def record_inputs(
    layers: Mapping[str, Any], evaluate: Callable[[], object], new_moment: Callable[[], SecondMoment]
) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each layer while its model is evaluated, (in, in) float64.

    Args:
        layers: of a backend's model, by name; each reads its input in `narrow`.
        evaluate: runs the model on the calibration text.
        new_moment: makes an empty sum.
    """
    moments = {name: new_moment() for name in layers}
    for name, layer in layers.items():
        layer.narrow = _recording(layer.narrow, moments[name])  # on this object; its class keeps its own
    try:
        evaluate()
    finally:
        for layer in layers.values():
            del layer.narrow
    return {name: each.mean() for name, each in moments.items()}


def _recording(narrow: Callable[[Any], Any], moment: SecondMoment) -> Callable[[Any], Any]:
    def recording(x: Any) -> Any:
        moment.add(x)
        return narrow(x)

    return recording
