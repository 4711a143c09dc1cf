"""What a run measured of its own layers in training (`train.inspect_every`), as lines."""

from collections.abc import Callable, Iterator

import numpy as np

from lost.report.curves import ACROSS, Curve, curve
from lost.report.story import Story
from lost.tracking.metrics import is_number

_LINES = 8  # of one plot


def inspections(story: Story) -> Iterator[tuple[str, dict[str, Curve]]]:
    """Yield what is drawn against steps: its title, and its lines by name. Nothing, if the run wasn't inspected."""
    for key, title, named, best in (
        ("activation_rms", "root mean square of a block's output", _block, np.mean),
        ("spectral_norm", "largest singular value, of all blocks", within_block, np.max),
        ("effective_rank", "effective rank, mean of all blocks", within_block, np.mean),
    ):
        if lines := _lines(story, key, named, best):
            yield title, lines


def _lines(
    story: Story, key: str, named: Callable[[str], str], together: Callable[[np.ndarray], float]
) -> dict[str, Curve]:
    """Return curves of a field that has a value for each of many names; those of equal lines at a step together."""
    rows = []
    for row in story.rows:
        values: dict[str, list[float]] = {}
        for field, value in row.items():
            if field.startswith(f"{key}.") and is_number(value):
                values.setdefault(named(field), []).append(value)
        if values:
            rows.append(
                {"step": row["step"], **{name: float(together(np.array(all_))) for name, all_ in values.items()}}
            )
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    chosen = [names[at] for at in dict.fromkeys(np.linspace(0, len(names) - 1, _LINES).astype(int))] if names else []
    return {name: curve(story, rows, name, ACROSS["steps"]) for name in chosen}


def _block(field: str) -> str:
    return f"block {field.rpartition('.')[2]}"


def within_block(field: str) -> str:
    """Return what a projection is called within its block."""
    return field.rpartition(".")[2].removesuffix("_proj")
