"""Random values keyed by a seed and a name, independent of framework, device and order of drawing."""

import hashlib

import numpy as np


def generator(seed: int, name: str) -> np.random.Generator:
    """Return a Philox generator keyed by (seed, name)."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Return normal values of mean 0 in float64, identical for every backend, world size and rank."""
    values = generator(seed, name).standard_normal(shape)
    values *= std
    return values
