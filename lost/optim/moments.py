"""The moments that AdamW keeps of each trained parameter: their names and shapes in a checkpoint."""

from lost.config import Config
from lost.model.parameters import parameter_table

MOMENTS = ("exp_avg", "exp_avg_sq")
SCALE = "exp_avg_scale"
BLOCK = 256  # entries that share a scale where moments are kept in 8 bits


def moment_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that an optimizer keeps, by name: the moments of each trained parameter.

    Where moments are kept in 8 bits, also the scales of the first ones (float32, one a block): those of the second can
    be read off the values, but the 8-bit map has no -1, so that a block whose largest entry is negative hides its own.
    """
    trained = {name: row for name, row in parameter_table(config).items() if row.trained}
    shapes = {f"{name}.{moment}": row.shape for name, row in trained.items() for moment in MOMENTS}
    if config.optimizer.name == "adamw8bit":
        shapes |= {f"{name}.{SCALE}": (row.size // BLOCK,) for name, row in trained.items() if in_blocks(row.size)}
    return shapes


def in_blocks(size: int) -> bool:
    """Whether adamw8bit keeps the moments of a parameter of this many entries in 8 bits: torchao's rule."""
    return size >= 4096 and size % BLOCK == 0
