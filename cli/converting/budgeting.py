"""`lost convert --budget`: which rank each projection gets, so that the model has a share of its size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from lost.engine import Engine
    from lost.interop.from_hf import Imported
    from lost.interop.from_hf.conversion import Weightings
    from lost.method.levels import Levels
    from lost.reshape.budget import Choices, Picks, Room


@dataclass(frozen=True)
class Budget:
    """The options of a budget.

    Attributes:
        share: of the dense model's parameters or FLOPs.
        of: what is counted.
        generations: of the search; 0: none.
        seed: of the search.
    """

    share: float
    of: Literal["parameters", "flops"]
    generations: int
    seed: int


@dataclass(frozen=True)
class Chosen:
    """The ranks that meet a budget.

    Attributes:
        ranks: by projection; None: it stays dense.
        value: what the answer says of it as JSON.
        lines: the same for people.
    """

    ranks: dict[str, int | None]
    value: dict[str, Any]
    lines: list[str]


def asked(
    share: float | None,
    of: Literal["parameters", "flops"] | None,
    generations: int | None,
    seed: int | None,
    rank: int | None,
    calibrate: Path | None,
) -> Budget | None:
    """Return what the options ask for.

    Raises:
        UserError: they don't go together.
    """
    from lost.errors import UserError

    if share is None:
        given = {"--budget-of": of, "--search": generations, "--seed": seed}
        if names := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{names[0]} without --budget: it says how ranks are chosen; add --budget, or leave it out")
        return None
    if rank is not None:
        raise UserError(f"--budget {share:g} with --rank {rank}: the budget chooses the ranks; leave one of them out")
    if not 0 < share < 1:
        raise UserError(f"--budget {share:g}: expected a share of the dense model, more than 0 and less than 1")
    if generations is not None and calibrate is None:
        raise UserError("--search without --calibrate: models are compared on a calibration text; add --calibrate")
    if generations is None and seed is not None:
        raise UserError(f"--seed {seed} without --search: nothing else is random; leave it out")
    return Budget(share, of or "parameters", generations or 0, seed or 0)


def choose_ranks(
    budget: Budget,
    imported: "Imported",
    density: float,
    weightings: "Weightings",
    engine: "Engine | None",
    tokens: "np.ndarray | None",
    note: Callable[[str], None],
) -> Chosen:
    """Return ranks for an imported model.

    Args:
        budget: to be met.
        imported: a dense model.
        density: share of input channels to keep.
        weightings: of the errors.
        engine: holds the dense model, and does afterwards; only needed with a search, as are the tokens.
        tokens: of the calibration text.
        note: told of progress.

    Raises:
        UserError: no ranks meet the budget.
    """
    from lost.model.parameters import projections
    from lost.reshape.budget import COUNTED, greedy, room, spent
    from lost.reshape.sizes import sizes

    limit = room(imported.config, projections(imported.config), budget.share, budget.of)
    choices, levels = sizes(imported, budget.of, density, weightings, budget.generations > 0, note)
    picks = greedy(choices, limit)
    distances: dict[str, float] | None = None
    if budget.generations:
        assert engine is not None
        assert tokens is not None
        picks, distances = _searched(budget, imported, choices, levels, picks, limit, engine, tokens, note)
        engine.load(imported.parameters())
    ranks = {name: choices[name][place].rank for name, place in picks.items()}
    kept = (limit.fixed + spent(choices, picks)) / limit.whole
    dense = [name for name, rank in ranks.items() if rank is None]
    line = f"{kept:.1%} of the {COUNTED[budget.of]}, of a budget of {budget.share:.1%}"
    if dense:
        line += f"; {len(dense)} of {len(ranks)} projections stay dense"
    lines = [line]
    if distances:
        lines.append(
            f"{distances['found']:.3g} nats a token from the dense model's predictions on the calibration text, "
            f"{distances['greedy']:.3g} before the search"
        )
    value = {"share": budget.share, "of": budget.of, "kept": kept, "dense": dense, "divergence": distances}
    return Chosen(ranks, value, lines)


def _searched(
    budget: Budget,
    imported: "Imported",
    choices: "Choices",
    levels: "Mapping[str, Levels]",
    start: "Picks",
    limit: "Room",
    engine: "Engine",
    tokens: "np.ndarray",
    note: Callable[[str], None],
) -> "tuple[Picks, dict[str, float]]":
    """Return the best model of a search, which Ctrl-C ends, and how far it and the start are from the dense one."""
    from lost.reshape.divergence import Divergence
    from lost.reshape.search import generations

    divergence = Divergence(engine, imported.parameters, levels, tokens, imported.config.data.seq_len)

    def judge(picks: "Picks", samples: Any) -> float:
        ranks = ((name, choices[name][place].rank) for name, place in picks.items())
        return divergence({name: levels[name].by_rank[rank] for name, rank in ranks if rank is not None}, samples)

    best = start
    found = generations(choices, start, limit.most - limit.fixed, judge, divergence.samples, budget.seed)
    try:
        for number, (parent, distance) in enumerate(islice(found, budget.generations), 1):
            best = parent
            note(f"generation {number} of {budget.generations}: {distance:.3g} nats a token from the dense model")
    except KeyboardInterrupt:
        note("the search is stopped, and the best so far is written; interrupt again to write nothing")
    everything = range(divergence.samples)
    distances = [judge(each, everything) for each in (start, best)]
    nearest = min((0, 1), key=distances.__getitem__)
    return (start, best)[nearest], {"greedy": distances[0], "found": distances[nearest]}
