"""Conversion of linear layers, in any model, to LOST layers: options, selection, values, report.

A backend finds the layers and replaces them (`lost.backends.torch.lostify` and its MLX twin). What each becomes is
decided here, so that both backends convert the same weights alike.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lost.config import ProjectionSettings
from lost.errors import UserError
from lost.method.compress import LayerFit, approximate, fitting_rank, layer_fit, stored
from lost.method.decompose import decompose
from lost.projections import Projection, projection

HEADS = ("lm_head", "*.lm_head", "head", "*.head", "embed_out", "*.embed_out", "output", "score")
"""Usual names of output heads."""


@dataclass(frozen=True)
class LostifyOptions:
    """How linear layers are converted.

    Attributes:
        rank: of the low-rank pair, or the largest that the layer can have.
        density: share of input channels to keep; k is rounded up so that rank + k is a multiple of 32.
        gamma: weight of the low-rank part.
        fresh: False: the layer approximates what it computed, without activation. True: it is initialized for training,
            as in the paper: SiLU inside, leading singular triplets, original columns.
    """

    rank: int
    density: float
    gamma: float
    fresh: bool

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.density <= 1 or not 0 < self.gamma < 1:
            raise UserError(
                f"rank = {self.rank}, density = {self.density}, gamma = {self.gamma}: expected a rank of at least 1, a "
                "density in (0, 1] and a gamma between 0 and 1"
            )

    def convert_layer(
        self, name: str, weight: np.ndarray, bias: bool
    ) -> tuple[Projection, dict[str, np.ndarray], LayerFit]:
        """Convert a layer with this weight (out x in), float32 or float64.

        Returns:
            The projection; its down, up and channels; how well they fit the weight.
        """
        out_features, in_features = weight.shape
        settings = ProjectionSettings(
            rank=fitting_rank(self.rank, out_features, in_features),
            density=self.density,
            gamma=self.gamma,
            activation="silu" if self.fresh else "none",
            values="original" if self.fresh else "complement",
        )
        if self.fresh:
            factors = decompose(weight, settings.rank, settings.density, align=settings.align)
        else:
            factors = approximate(weight, settings)
        values = stored(factors, np.dtype(np.float32))
        new = projection(name, in_features, out_features, settings, bias)
        return new, values, layer_fit(name, weight, values, self.gamma)


@dataclass(frozen=True)
class LostifyReport:
    """What changed in a model.

    Attributes:
        layers: each converted layer, and how well it fits the weight it replaces (without the activation).
        parameters_before: of the whole model, frozen ones too, tied ones once; channel indices don't count.
        parameters_after: likewise.
    """

    layers: list[LayerFit]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        return (
            f"{len(self.layers)} layers converted: {self.parameters_before:,} parameters before, "
            f"{self.parameters_after:,} after"
        )


def select_layers(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the names of the layers to convert.

    Args:
        names: of the model's linear layers.
        include: patterns such as `*.mlp.*`; a name must match one.
        exclude: patterns; a name must match none.

    Raises:
        UserError: no name matches.
    """
    names = list(names)
    if "" in names:
        raise UserError(
            "the model is itself a linear layer; expected a module that contains linear layers; wrap it in one"
        )
    selected = [name for name in names if _matches(name, include) and not _matches(name, exclude)]
    if not selected:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"no layer to swap: include = {list(include)}, exclude = {list(exclude)}, and the model has {len(names)} "
            f"linear layers{f' ({shown})' if names else ''}; expected patterns that match some of them"
        )
    return selected


def check_unshared(names: Iterable[str], arrays: Iterable[tuple[str, object]]) -> None:
    """Refuse layers that share their weight with another module: converted, the two would drift apart.

    Args:
        names: of the layers to convert.
        arrays: of the whole model; a shared one is listed under each of its names.

    Raises:
        UserError: a weight is shared.
    """
    owners: dict[int, set[str]] = {}
    own: dict[str, set[str]] = {}
    for name, array in arrays:
        own[name] = owners.setdefault(id(array), set())
        own[name].add(name)
    for name in names:
        if others := own[f"{name}.weight"] - {f"{name}.weight"}:
            raise UserError(
                f"{name} shares its weight with {min(others)}; expected a layer with a weight of its own; leave it out "
                "with exclude"
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
