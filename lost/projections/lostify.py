"""Linear layers of any model turned into LOST layers: which, with which values, and what came of it.

A backend finds the layers and puts the new ones in their place (`lost.backends.torch.lostify` and MLX's twin); what
they become is decided here, so that both make the same of the same weights.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lost.config import ProjectionSettings
from lost.errors import UserError
from lost.method.compress import LayerError, fitting_rank, layer_error, stored, truncate
from lost.method.decompose import decompose
from lost.projections import Projection, projection

HEADS = ("lm_head", "*.lm_head", "head", "*.head", "embed_out", "*.embed_out", "output", "score")
"""Names that output heads go by."""


@dataclass(frozen=True)
class Recipe:
    """What to make of a linear layer.

    Attributes:
        rank: of the low-rank pair, or the largest that the layer can have.
        density: share of input channels to keep; k is rounded up so that rank + k is a multiple of 32.
        gamma: weight of the low-rank part.
        fresh: False: the layer keeps computing what it did as nearly as it can, without activation. True: it becomes
            the start of a training, as the method has it: SiLU inside, leading singular triplets, original columns.
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

    def made_of(
        self, name: str, weight: np.ndarray, bias: bool
    ) -> tuple[Projection, dict[str, np.ndarray], LayerError]:
        """Return what a layer with a weight (out x in), float32 or float64, becomes.

        Returns:
            The projection, its down, up and channels, and how far these are from the weight.
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
            factors = truncate(weight, settings)
        values = stored(factors, np.dtype(np.float32))
        made = projection(name, in_features, out_features, settings, bias)
        return made, values, layer_error(name, weight, values, self.gamma)


@dataclass(frozen=True)
class Swapped:
    """What changed in a model.

    Attributes:
        layers: each layer that was swapped, and how far its weight is from the one before (activation left out).
        parameters_before: trained and frozen ones of the whole model, tied ones once; numbers of channels don't count.
        parameters_after: likewise.
    """

    layers: list[LayerError]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        return (
            f"{len(self.layers)} layers swapped: {self.parameters_before:,} parameters before, "
            f"{self.parameters_after:,} after"
        )


def chosen(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the names of the linear layers to swap.

    Args:
        names: of the model's linear layers.
        include: patterns such as `*.mlp.*`, one of which a name matches.
        exclude: patterns none of which it matches.

    Raises:
        UserError: there are none.
    """
    names = list(names)
    if "" in names:
        raise UserError(
            "the model is itself a linear layer; expected one that holds linear layers; put it into a module"
        )
    found = [name for name in names if _matches(name, include) and not _matches(name, exclude)]
    if not found:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"no layer to swap: include = {list(include)}, exclude = {list(exclude)}, and the model has {len(names)} "
            f"linear layers{f' ({shown})' if names else ''}; expected patterns that match some of them"
        )
    return found


def check_unshared(names: Iterable[str], arrays: Iterable[tuple[str, object]]) -> None:
    """Refuse layers whose weight another module uses too: swapped, they would part.

    Args:
        names: of the layers to swap.
        arrays: of the whole model, by all their names: one that is shared comes several times.

    Raises:
        UserError: there is one.
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
