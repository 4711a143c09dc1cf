"""How many FLOP/s a card can do at most: what a model's FLOPs are compared with (MFU, arXiv 2204.02311, appendix B).

From the makers' data sheets, dense. bfloat16: without sparsity and, on GeForce cards, with sums in float32. float32:
without TF32, which PyTorch leaves off unless it is told otherwise.
"""

import re

# TFLOP/s in bfloat16 and in float32, by words of the name that CUDA gives a card; the first that fits counts.
_CARDS = {
    "gb200": (2500.0, 80.0),
    "b200": (2250.0, 75.0),
    "gh200": (989.0, 67.0),
    "h200 nvl": (835.0, 60.0),
    "h200": (989.0, 67.0),
    "h100 nvl": (835.0, 60.0),
    "h100 pcie": (756.0, 51.0),
    "h100": (989.0, 67.0),
    "a100": (312.0, 19.5),
    "a40": (149.7, 37.4),
    "a10": (125.0, 31.2),
    "l40s": (362.0, 91.6),
    "l40": (181.0, 90.5),
    "l4": (121.0, 30.3),
    "rtx 6000 ada": (364.2, 91.1),
    "rtx a6000": (154.8, 38.7),
    "rtx 5090": (209.5, 104.8),
    "rtx 4090": (165.2, 82.6),
    "rtx 3090": (71.0, 35.6),
}
# Other cards of the same number, or a part of one: nothing is claimed about them.
_VARIANTS = re.compile(r"\b(laptop|max-q|ti|super|d|mig)\b")


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Return the most dense FLOP/s of a card, or None where they aren't known.

    Args:
        device_name: as CUDA tells it, such as "NVIDIA H100 80GB HBM3".
        dtype: float32 or bfloat16, in which products are computed.
    """
    name = device_name.lower()
    if _VARIANTS.search(name):
        return None
    column = ("bfloat16", "float32").index(dtype)
    return next((1e12 * peaks[column] for card, peaks in _CARDS.items() if re.search(rf"\b{card}\b", name)), None)
