"""Ways to the leading 512 eigenvectors of a 2048 x 2048 Gram matrix: alone on all threads, and two side by side.

usage: python benchmarks/eigenvectors.py
"""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import scipy.linalg
from common import heading
from threadpoolctl import threadpool_limits

from lost.method.eigen import leading_eigenvectors

SIZE, COUNT, ROUNDS = 2048, 512, 3


def seconds(call: Callable[[], object], copies: int) -> float:
    """Time `copies` threads that each make the call."""
    threads = [threading.Thread(target=call) for _ in range(copies)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def main() -> None:
    """Print one table: medians in seconds, ways interleaved."""
    weight = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    gram = weight @ weight.T
    ways: dict[str, Callable[[], object]] = {
        "numpy.linalg.eigh, all vectors": lambda: np.linalg.eigh(gram),
        "scipy.linalg.eigh, evr on the subset": lambda: scipy.linalg.eigh(
            gram, subset_by_index=(SIZE - COUNT, SIZE - 1), driver="evr", check_finite=False
        ),
        "lost.method.eigen (the same routine, lock released)": lambda: leading_eigenvectors(gram.copy(), COUNT),
    }
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            alone = seconds(way, 1)
            with threadpool_limits(1, user_api="blas"):
                times[name].append((alone, seconds(way, 2)))
    print(f"{heading('Leading eigenvectors', 'numpy', 'scipy')}; medians of {ROUNDS} in seconds\n")
    print("| way | one, all BLAS threads | two in threads, one BLAS thread each |")
    print("| --- | --- | --- |")
    for name, pairs in times.items():
        alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {alone:.2f} | {both:.2f} |")


if __name__ == "__main__":
    main()
