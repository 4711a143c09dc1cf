"""Interleaved timing of alternatives, so that other load on the machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each call, by name; each round calls every function once, in a new random order.

    Args:
        functions: to time; each returns when the device is done.
        rounds: timed ones.
        warm_up: rounds before them, whose times are discarded.
    """
    random, names = np.random.default_rng(0), list(functions)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for index in random.permutation(len(names)):
            began = time.perf_counter()
            functions[names[index]]()
            seconds = time.perf_counter() - began
            if number >= warm_up:
                times[names[index]].append(seconds)
    return times


def summarize(times: Mapping[str, Sequence[float]], kind: str, calls: int = 1) -> dict[str, Any]:
    """Return the median and quartiles of one call's seconds, and the ratios of the median to dense's and CoLA's."""
    low, middle, high = (float(part) / calls for part in np.percentile(times[kind], [25, 50, 75]))
    medians = {each: float(np.median(values)) / calls for each, values in times.items()}
    return {
        "seconds": {"median": middle, "p25": low, "p75": high},
        "ratio_to_dense": middle / medians["dense"] if "dense" in medians else None,
        "ratio_to_cola": middle / medians["cola"] if "cola" in medians else None,
    }
