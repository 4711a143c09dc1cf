"""How often the intervals of `lost fit` hold planted constants, and the loss of the next run: they say 95 %.

Ladders of runs whose losses follow a known law, each run off by a normal error of its own; and one with several
validations a run, which share the error of the run. Each is drawn anew 100 times.

usage: python benchmarks/coverage.py      (minutes)
"""

import numpy as np

from lost.scaling.law import CONSTANTS, Law, Points, fit, interval

PLANTED = Law(E=1.7, A=40.0, a=0.3, B=400.0, b=0.35)
SIZES = np.array([3e5, 6e5, 1.2e6, 2.4e6, 5e6])
TOKENS = np.array([1e6, 4e6, 16e6])
NEXT = 2e7, 4e7  # of the run that is predicted: size and tokens
ROUNDS = 100


def ladder(common: float, own: float, validations: int, random: np.random.Generator) -> Points:
    """Return a run for each size and number of tokens, measured so often up to its end.

    Args:
        common: deviation of log losses, the same for all of a run.
        own: of each of them beside.
        validations: of a run.
        random: draws the errors.
    """
    sizes, ends = (np.repeat(each.ravel(), validations) for each in np.meshgrid(SIZES, TOKENS))
    tokens = ends * np.tile(np.linspace(1, 0.2, validations), len(SIZES) * len(TOKENS))
    runs = np.repeat(np.arange(len(SIZES) * len(TOKENS)), validations)
    errors = common * random.standard_normal(runs.max() + 1)[runs] + own * random.standard_normal(len(runs))
    return Points(sizes, tokens, PLANTED.loss(sizes, tokens) * np.exp(errors), runs)


def main() -> None:
    """Print one table."""
    print("# Coverage of the intervals of `lost fit`\n\nCommand: `python benchmarks/coverage.py`\n")
    runs = len(SIZES) * len(TOKENS)
    print(f"Of {ROUNDS} draws of {runs} runs each, in how many the interval of 95 % holds what was planted.")
    print(f"\n| a run's error | validations a run | {' | '.join(CONSTANTS)} | the next run |\n|{' --- |' * 8}")
    for common, own, validations in ((0.002, 0.0, 1), (0.004, 0.0, 1), (0.01, 0.0, 1), (0.004, 0.001, 5)):
        held = dict.fromkeys((*CONSTANTS, "next"), 0)
        for seed in range(ROUNDS):
            random = np.random.default_rng(seed)
            found = fit(ladder(common, own, validations, random), seed)
            for name in CONSTANTS:
                low, high = interval([getattr(each, name) for each in found.draws])
                held[name] += low <= getattr(PLANTED, name) <= high
            low, high = found.predict(*NEXT)[1]
            held["next"] += (
                low <= PLANTED.loss(*NEXT) * np.exp(np.hypot(common, own) * random.standard_normal()) <= high
            )
        cells = [f"{common:.1%}", str(validations), *map(str, held.values())]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
