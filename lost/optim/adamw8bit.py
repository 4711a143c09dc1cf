"""AdamW with moments in 8 bits, block by block (Dettmers et al., arXiv 2110.02861), as torchao keeps them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from lost.config import Config
from lost.model.parameters import Parameter
from lost.optim.adamw import MOMENTS, AdamW
from lost.optim.base import check_float32_weights

SCALE = "exp_avg_scale"
BLOCK = 256  # entries that share a scale


class AdamW8bit(AdamW):
    """Also saves the scales of the first moments (float32, one a block).

    Those of the second moments follow from the values. But the signed 8-bit map has no -1, so that the values don't
    show the scale of a block whose largest entry is negative.
    """

    arrays = (*MOMENTS, SCALE)
    updates: ClassVar[Mapping[str, str]] = MappingProxyType({"torch": "lost.backends.torch.optim.adamw8bit:AdamW8bit"})
    by_rows = False

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse weights that aren't float32."""
        check_float32_weights(config)

    def shapes(self, row: Parameter) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the moments, and of the scales if they are quantized."""
        scales = {SCALE: (row.size // BLOCK,)} if is_quantized(row.size) else {}
        return dict.fromkeys(MOMENTS, row.shape) | scales

    def bytes(self, row: Parameter, width: int) -> int:
        """Count a byte an entry, and the scales of both moments, if they are quantized."""
        return 2 * row.size + 2 * 4 * (row.size // BLOCK) if is_quantized(row.size) else 2 * row.size * width


def is_quantized(size: int) -> bool:
    """Whether the moments of a parameter with this many entries are kept in 8 bits: torchao's rule."""
    return size >= 4096 and size % BLOCK == 0
