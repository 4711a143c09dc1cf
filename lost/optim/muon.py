"""Muon (Jordan et al., kellerjordan.github.io/posts/muon): momentum, orthogonalized, for matrices inside the blocks.

Everything else, embedding and head among it, is AdamW's. The scales that make rates comparable between shapes are those
of Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982), of Bernstein, and of the original.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lost.config import Config
from lost.model.parameters import EMBEDDING, HEAD, Parameter
from lost.optim.adamw import MOMENTS, AdamW
from lost.optim.base import Array, Table, check_float32_weights

MOMENTUM = "momentum_buffer"
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x -> a x + b x^3 + c x^5, which five times takes singular values in [.0015, 1] to [.68, 1.21]."""
RUNS = (3, 2)
"""Iterations between two products with the matrix itself; in between only the Gram matrix of its short side changes. As
exact in float32 as five products are (benchmarks/newton_schulz.py). With sides n and q n it takes 4 q + 14 products of
n x n matrices, five plain iterations 10 q + 5: it pays from q = 1.5 on."""
AT_ONCE = 1 << 26
"""Entries of matrices that a process orthogonalizes at a time, or one matrix: PyTorch's update takes memory by them."""


class Muon(AdamW):
    """Keeps a momentum of each matrix inside the blocks, and AdamW's moments of all else."""

    arrays: ClassVar[tuple[str, ...]] = (MOMENTUM, *MOMENTS)
    updates: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"torch": "lost.backends.torch.optim.muon:Muon", "mlx": "lost.backends.mlx.optim.muon:Muon"}
    )
    reads = AdamW.reads | {"momentum", "scale", "split_up", "orthogonalize_dtype"}
    gradient_powers: ClassVar[Mapping[str, int]] = MappingProxyType({MOMENTUM: 1, **AdamW.gradient_powers})
    rate_settings: ClassVar[tuple[str, ...]] = ("scale",)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse weights that aren't float32: an update is as large in every direction, and bfloat16 would round it."""
        check_float32_weights(config)

    @property
    def has_adamws_rates(self) -> bool:
        """Whether its updates are as long as AdamW's."""
        return self.settings.scale == "match_rms_adamw"

    def orthogonalized(self, table: Table) -> Counter[tuple[int, int]]:
        """Return the shapes of matrices inside the blocks; of their parts, where these are orthogonalized apart."""
        return Counter(
            (row.shape[0], piece.stop - piece.start)
            for row in filter(is_orthogonalized, table.values())
            for piece in pieces(row, self.settings.split_up)
        )

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the momentum's shape, or those of AdamW's moments."""
        return {MOMENTUM: row.shape} if is_orthogonalized(row) else dict.fromkeys(MOMENTS, row.shape)

    def width_powers(self, row: Parameter) -> tuple[float, float]:
        """Return what is left once an update's length is by its matrix's shape; AdamW's for what AdamW updates.

        An output moves as much whatever the width if the update's singular values are as (rows/columns)^(1/2), which
        stays where both sides widen. `spectral` and `original` have that. With `match_rms_adamw` they grow as m^(1/2),
        so the rate goes as m^(-1/2). What training comes to, (length/decay)^(1/2) and at most 1/decay of it, stays
        where the decay goes as m^(1/2).
        """
        if not is_orthogonalized(row):
            return super().width_powers(row)
        return (-0.5, 0.5) if self.settings.scale == "match_rms_adamw" else (0.0, 0.0)

    def update(
        self, row: Parameter, weight: Array, gradient: Array, state: Mapping[str, Array], lr: float, number: int
    ) -> Array:
        """Return a weight after an update."""
        if not is_orthogonalized(row):
            return super().update(row, weight, gradient, state, lr, number)
        settings, momentum = self.settings, state[MOMENTUM]
        rate, decay = self.group(row)
        lr *= rate
        momentum[...] = settings.momentum * momentum + gradient
        direction = gradient + settings.momentum * momentum
        moved = weight * (1 - lr * decay)
        for piece in pieces(row, settings.split_up):
            part = direction[:, piece]
            moved[:, piece] -= lr * scale(settings.scale, *part.shape) * newton_schulz(part)
        return moved


def is_orthogonalized(row: Parameter) -> bool:
    """Whether a parameter is a matrix inside a block."""
    return row.trained and len(row.shape) == 2 and row.name not in (EMBEDDING, HEAD)


def pieces(row: Parameter, split: bool) -> Iterator[slice]:
    """Yield the columns of a matrix that are orthogonalized together: all of them, or each of its parts."""
    widths = row.parts if split and row.parts else (row.shape[1],)
    ends = np.cumsum(widths).tolist()
    yield from (slice(end - width, end) for end, width in zip(ends, widths, strict=True))


def at_once(shape: tuple[int, int], shards: int) -> int:
    """Return how many matrices of a shape are orthogonalized at a time by so many processes, each an equal share."""
    return shards * max(1, AT_ONCE // (shape[0] * shape[1]))


def scale(name: str, rows: int, columns: int) -> float:
    """Return what an orthogonal update of this shape is multiplied with.

    `match_rms_adamw`: an update's entries have the root mean square that AdamW's usually have, .2, so that its rates
    and decay carry over. `spectral`: it changes outputs by as much whatever the shape. `original`: as first published.
    """
    if name == "match_rms_adamw":
        return 0.2 * max(rows, columns) ** 0.5
    ratio = rows / columns
    return ratio**0.5 if name == "spectral" else max(1.0, ratio) ** 0.5


def newton_schulz(matrix: Array) -> Array:
    """Return a matrix of nearly the same singular vectors, its singular values near 1; the plain form, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.astype(np.float64)
    x = x.T if len(x) > x.shape[1] else x
    x = x / (np.linalg.norm(x) + 1e-30)
    for _ in range(sum(RUNS)):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
