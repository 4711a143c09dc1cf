"""Concurrent decompositions, each with one BLAS thread (benchmarks/eigenvectors.py), their results in order.

Accelerate, numpy's BLAS on a Mac, takes no limit once it is loaded: there each has as many threads as Accelerate
chooses, unless `--threads` or VECLIB_MAXIMUM_THREADS said how many before.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from lost.utils.machine import cores

T = TypeVar("T")
R = TypeVar("R")
_MOST_WORKERS = 8  # each holds a weight, its Gram matrix and their products in float64


def side_by_side(compute: Callable[[T], R], items: Iterable[T], num_processes: int = 1) -> Iterator[R]:
    """Yield what `compute` returns for each item, in order; only a few results are held at once.

    Args:
        compute: called with each item, in a thread.
        items: to compute.
        num_processes: processes that share this machine's cores for this work.
    """
    workers = max(1, min(_MOST_WORKERS, cores() // num_processes))
    running: deque[Future[R]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        for item in items:
            running.append(pool.submit(compute, item))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
