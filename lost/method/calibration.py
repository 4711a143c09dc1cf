"""What the inputs of a model's layers look like, for a decomposition that is to be exact where it matters."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class Moment(Protocol):
    """A backend's running sum of x x^T."""

    def add(self, x: Any) -> None:
        """Take inputs (..., in), on the device."""

    def mean(self) -> np.ndarray:
        """Return the mean so far, (in, in) float64."""


def watched(
    layers: Mapping[str, Any], evaluate: Callable[[], object], moment: Callable[[], Moment]
) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each layer while its model is evaluated, (in, in) float64.

    Args:
        layers: of a backend's model, by name; each reads its input in `narrow`.
        evaluate: has the model read something.
        moment: makes a sum that is empty.
    """
    moments = {name: moment() for name in layers}
    for name, layer in layers.items():
        layer.narrow = _noting(layer.narrow, moments[name])  # of this one object; its class has another
    try:
        evaluate()
    finally:
        for layer in layers.values():
            del layer.narrow
    return {name: each.mean() for name, each in moments.items()}


def _noting(narrow: Callable[[Any], Any], moment: Moment) -> Callable[[Any], Any]:
    def noted(x: Any) -> Any:
        moment.add(x)
        return narrow(x)

    return noted
