"""How much what is searched matters, cell by cell: the best value, and the mean excess loss over a sweep of values.

The latter is the learning rate sensitivity of Wortsman et al. (arXiv 2309.14322): the mean over all values of how much
their loss is above the best; a loss counts at most as what a model has that has learned nothing.
"""

import math
import statistics
from typing import Any

from lost.errors import UserError
from lost.model.load import load_config
from lost.model.parameters import vocabulary
from lost.sweep.plan import Sweep
from lost.sweep.report import curve
from lost.sweep.results import Results
from lost.training.run_dir import CONFIG


def check_searches(sweep: Sweep) -> None:
    """Refuse a sweep whose runs say nothing of that.

    Raises:
        UserError: it searches nothing.
    """
    if sweep.key is None:
        raise UserError(
            "--sensitivity: the sweep searches nothing; expected a key with values, such as search: {optimizer.lr: "
            "[1.0e-3, 2.0e-3, 4.0e-3]}; add it, or leave the option out"
        )


def sensitivity(results: Results) -> list[dict[str, Any]]:
    """Return a row a cell whose search is over and whose best has a loss, the smallest model first.

    The mean is over the values that every such cell has tried, so that cells can be compared; None: they share none.
    """
    sweep, losses = results.sweep, results.losses()
    ended = [best for cell in sweep.cells if (best := sweep.best(cell, losses)) and math.isfinite(losses[best.name])]
    found = [(best, curve(results, best.cell)) for best in ended]
    shared = sorted(set.intersection(*(set(tried) for _, tried in found))) if found else []
    rows = []
    for best, tried in found:
        row = results.row(best)
        assert row is not None
        assert best.value is not None
        untrained = math.log(vocabulary(load_config(results.folder / best.name / CONFIG)))
        least = tried[best.value]
        excess = [min(tried[value], untrained) - least for value in shared]
        rows.append(
            {
                "cell": best.cell.names,
                "parameters": row["parameters"],
                "best": best.value,
                "loss": least,
                "sensitivity": statistics.mean(excess) if excess else None,
                "values": shared,
            }
        )
    return sorted(rows, key=lambda row: row["parameters"])
