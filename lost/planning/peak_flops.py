"""Peak FLOP/s of GPUs, for the model FLOPs utilization (MFU, arXiv 2204.02311, appendix B).

From the vendors' data sheets, dense. bfloat16: without sparsity and, on GeForce cards, with sums in float32. TF32: half
of that on all of them. float32: without TF32.
"""

import re

from lost.config import Config
from lost.planning.budget import budget

# TFLOP/s in bfloat16 and in float32, by words of the device name that CUDA reports; the first match counts.
_TFLOPS = {
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
# Other products of the same number, or a slice of one: their peaks aren't known.
_VARIANTS = re.compile(r"\b(laptop|max-q|ti|super|d|mig)\b")


def peak_flops(device_name: str, dtype: str, device: str = "cuda") -> float | None:
    """Return the peak dense FLOP/s of a GPU, or None where unknown.

    Args:
        device_name: as CUDA reports it, such as "NVIDIA H100 80GB HBM3".
        dtype: of the matrix products, float32, tf32 or bfloat16.
        device: as PyTorch names it; of others than CUDA's no peak is known, though a processor may be called as a card.
    """
    name = device_name.lower()
    if not device.startswith("cuda") or _VARIANTS.search(name):
        return None
    column, share = {"bfloat16": (0, 1.0), "tf32": (0, 0.5), "float32": (1, 1.0)}[dtype]
    rates = (rates for gpu, rates in _TFLOPS.items() if re.search(rf"\b{gpu}\b", name))
    return next((1e12 * share * each[column] for each in rates), None)


def tokens_at_peak(config: Config, device: str, device_name: str, cards: int) -> float | None:
    """Return the tokens a second at which a model's own FLOPs would be all that cards can; None: that isn't known.

    What is reached, divided by it, is the MFU.

    Args:
        config: of the training, its vocabulary known.
        device: as in `peak_flops`.
        device_name: of each card, as CUDA reports it.
        cards: how many share the batch.
    """
    peak = peak_flops(device_name, config.train.product_dtype, device)
    return cards * peak / budget(config).flops_per_token if peak else None
