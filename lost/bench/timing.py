"""Timing several ways in turns, so that a busy moment of the machine hits all of them alike; and what the times say."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each call, by way: in each round every way has one turn, in a new random order.

    Args:
        ways: calls that return when the device is done.
        rounds: timed ones.
        warm_up: rounds before them whose times are thrown away.
    """
    random, names = np.random.default_rng(0), list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for place in random.permutation(len(names)):
            began = time.perf_counter()
            ways[names[place]]()
            seconds = time.perf_counter() - began
            if number >= warm_up:
                times[names[place]].append(seconds)
    return times


def summary(times: Mapping[str, Sequence[float]], kind: str, calls: int = 1) -> dict[str, Any]:
    """Return the median and the quartiles of one call's seconds, and the median beside dense's and CoLA's."""
    low, middle, high = (float(part) / calls for part in np.percentile(times[kind], [25, 50, 75]))
    medians = {each: float(np.median(values)) / calls for each, values in times.items()}
    return {
        "seconds": {"median": middle, "p25": low, "p75": high},
        "ratio_to_dense": middle / medians["dense"] if "dense" in medians else None,
        "ratio_to_cola": middle / medians["cola"] if "cola" in medians else None,
    }
