"""Sizes of matrix products for which CUDA has no fast kernels."""

from collections.abc import Iterator

from lost.config import Config
from lost.model.adapted import unquantized
from lost.model.parameters import projections, vocabulary

MULTIPLES = {"bfloat16": 8, "float32": 4}
"""Of a row's length, by type: kernels read rows in pieces of 16 bytes, which begin at multiples of it."""


def unaligned(config: Config, device: str) -> str:
    """Return a warning if products of a model have such sizes on a device; else nothing.

    Args:
        config: its vocabulary known.
        device: as the backend names it.
    """
    if not device.startswith("cuda"):
        return ""
    multiple = MULTIPLES[config.train.compute_dtype]
    products = list(product_sizes(config))
    slow = [sizes for sizes in products if any(size % multiple for size in sizes)]
    if not slow:
        return ""
    share = sum(rows * columns for rows, columns in slow) / sum(rows * columns for rows, columns in products)
    odd = sorted({size for sizes in slow for size in sizes if size % multiple})
    keys = {
        "model.hidden_size": config.model.hidden_size,
        "model.intermediate_size": config.model.intermediate_size,
        "model.vocab_size": vocabulary(config),
        "projection.rank": config.projection.rank,
        "projection.align": config.projection.align,
    }
    sets = [f"--set {key}={-(-size // multiple) * multiple}" for key, size in keys.items() if size % multiple]
    return (
        f"{len(slow)} of {len(products)} weights ({share:.0%} of their multiply-adds) have sides that aren't multiples "
        f"of {multiple} ({', '.join(map(str, odd))}), for which CUDA's products in {config.train.compute_dtype} are "
        f"slow; a new run avoids that with {' '.join(sets) or 'other sizes'}"
    )


def product_sizes(config: Config) -> Iterator[tuple[int, int]]:
    """Yield the sides of every matrix that a forward pass multiplies tokens by.

    Args:
        config: its vocabulary known.
    """
    for each in projections(unquantized(config)):  # words of few bits are unpacked to the matrix first
        if each.multiply_adds() == each.in_features * each.out_features:  # kept whole, or composed for each pass
            yield each.out_features, each.in_features
        else:
            yield from (shape for shape in (tensor.shape for tensor in each.tensors().values()) if len(shape) == 2)
    yield vocabulary(config), config.model.hidden_size
