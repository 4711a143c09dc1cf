"""`lost convert --budget`: which rank each projection gets, so that the model has a share of its size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lost.cli.converting.request import Need, Request

if TYPE_CHECKING:
    import numpy as np

    from lost.engine import Engine
    from lost.interop.from_hf import Imported
    from lost.interop.from_hf.conversion import Weightings
    from lost.method.levels import Levels
    from lost.reshape.budget import Choices, Picks, Room

Share = Annotated[
    float | None,
    typer.Option(
        help="With --from hf, instead of --rank: ranks chosen layer by layer, so that the model has this share of "
        "its parameters, such as 0.5."
    ),
]
BudgetOf = Annotated[
    Literal["parameters", "flops"] | None, typer.Option(help="What --budget is a share of; default: parameters.")
]
Search = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="With --budget and --calibrate: search better ranks for N generations, such as 30.", min=1
    ),
]
SearchSeed = Annotated[int | None, typer.Option(help="Of --search; default 0.", min=0)]
OPTIONS = frozenset({"--budget", "--budget-of", "--search", "--seed"})
NEEDS = (
    Need("--budget-of", ("--budget",), "it says what the budget counts"),
    Need("--search", ("--budget",), "it chooses the ranks of a budget"),
    Need("--search", ("--calibrate",), "models are compared on a calibration text"),
    Need("--seed", ("--search",), "nothing else is random"),
)


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


def asked(request: Request) -> Budget | None:
    """Return the budget that is asked for, if any.

    Raises:
        UserError: it doesn't go with other options, or is no share.
    """
    from lost.errors import UserError

    share, rank, generations = request.budget, request.rank, request.search
    if share is None:
        return None
    if rank is not None:
        raise UserError(f"--budget {share:g} with --rank {rank}: the budget chooses the ranks; leave one of them out")
    if not 0 < share < 1:
        raise UserError(f"--budget {share:g}: expected a share of the dense model, more than 0 and less than 1")
    return Budget(share, request.budget_of or "parameters", generations or 0, request.seed or 0)


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

    divergence = Divergence(engine, imported.parameters, levels, tokens, imported.config)

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
