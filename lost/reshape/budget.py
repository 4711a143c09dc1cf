"""Ranks that meet a budget: layer by layer what costs least for what it loses."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lost.config import Config
from lost.errors import UserError
from lost.interop.from_hf.conversion import LINEAR
from lost.planning.budget import budget
from lost.projections import Projection, projection

Of = Literal["parameters", "flops"]
COUNTED: Mapping[Of, str] = {"parameters": "parameters", "flops": "FLOPs"}
"""In words."""
Picks = dict[str, int]
"""Which of its choices each layer has, by their place."""


@dataclass(frozen=True)
class Choice:
    """A size of one layer.

    Attributes:
        rank: of its LOST layer; None: it stays dense.
        cost: parameters, or FLOPs a token.
        error: what it loses, comparable between layers.
    """

    rank: int | None
    cost: int
    error: float


Choices = Mapping[str, Sequence[Choice]]
"""The sizes that each layer may have, by its name: of rising cost and falling error."""


@dataclass(frozen=True)
class Room:
    """What a model may cost.

    Attributes:
        of: what is counted.
        whole: of the dense model.
        fixed: of what isn't decomposed.
        most: of the model to be made.
    """

    of: Of
    whole: int
    fixed: int
    most: int


def cost(each: Projection, of: Of) -> int:
    """Return a projection's parameters, or its FLOPs a token, forward and backward, as `lost plan` counts them."""
    return each.parameters() if of == "parameters" else 6 * each.multiply_adds()


def resized(each: Projection, rank: int, density: float) -> Projection:
    """Return the LOST layer without activation in a dense projection's place."""
    settings = each.settings.model_copy(update={**LINEAR, "rank": rank, "density": density})
    return projection(each.name, each.in_features, each.out_features, settings, each.bias)


def room(config: Config, layers: Sequence[Projection], share: float, of: Of) -> Room:
    """Return what a share of a dense model's cost is.

    Args:
        config: of the dense model.
        layers: its projections.
        share: of the whole model, embedding and head included; one that rounds to all of it leaves a bit out.
        of: what is counted.
    """
    counted = budget(config)
    whole = counted.parameters if of == "parameters" else counted.flops_per_token
    return Room(of, whole, whole - sum(cost(each, of) for each in layers), min(int(round(share * whole, 6)), whole - 1))


def worthwhile(choices: Iterable[Choice]) -> list[Choice]:
    """Return those choices that lose less than every cheaper one, by cost."""
    kept: list[Choice] = []
    for each in sorted(choices, key=lambda choice: (choice.cost, choice.error)):
        if not kept or each.error < kept[-1].error:
            kept.append(each)
    return kept


def greedy(choices: Choices, room: Room) -> Picks:
    """Return choices bought one by one: of all steps up that can be paid, the one with the largest gain for its cost.

    Until the first step that can't be, no model of that cost loses less.

    Args:
        choices: `worthwhile` ones of each layer.
        room: for all of them.

    Raises:
        UserError: the cheapest choices are more than that.
    """
    picks = dict.fromkeys(choices, 0)
    free = room.most - room.fixed - sum(each[0].cost for each in choices.values())
    if free < 0:
        least = room.most - free
        if least >= room.whole:
            raise UserError(
                f"--budget {room.most / room.whole:.4g}: none of the projections takes fewer {COUNTED[room.of]} as a "
                "LOST layer of this density, even at its lowest rank; expected larger matrices, or a lower --density; "
                "lower that, or leave --budget out"
            )
        raise UserError(
            f"--budget {room.most / room.whole:.4g}: at their lowest ranks the layers, with all that isn't decomposed, "
            f"have {least / room.whole:.4f} of the {COUNTED[room.of]}; expected "
            f"{-(-1000 * least // room.whole) / 1000:.3f} or more, and less than 1; raise it"
        )
    steps: list[tuple[float, str, int]] = []

    def offer(name: str) -> None:
        layer, here = choices[name], picks[name]
        payable = [place for place in range(here + 1, len(layer)) if layer[place].cost - layer[here].cost <= free]
        if payable:
            best = max(payable, key=lambda place: _gain(layer[here], layer[place]))
            heapq.heappush(steps, (-_gain(layer[here], layer[best]), name, best))

    for name in choices:
        offer(name)
    while steps:
        _, name, place = heapq.heappop(steps)
        price = choices[name][place].cost - choices[name][picks[name]].cost
        if price <= free:
            free, picks[name] = free - price, place
        offer(name)  # the next one, or one that can be paid
    return picks


def spent(choices: Choices, picks: Picks) -> int:
    """Return what the picked choices cost together."""
    return sum(choices[name][place].cost for name, place in picks.items())


def _gain(less: Choice, more: Choice) -> float:
    return (less.error - more.error) / (more.cost - less.cost)
