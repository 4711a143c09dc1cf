"""A search for better sizes than greedy ones, which judges whole models (EvoPress, arXiv 2410.14649).

Errors of layers don't add up to the model's. So each generation's children are copies of the best model so far in which
some layers grew and others shrank, within the budget; those nearest to the dense model on a few samples are compared
again on more, at last with their parent.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from lost.reshape.budget import Choices, Picks, spent
from lost.utils.randomness import generator

Judge = Callable[[Picks, Sequence[int]], float]
"""How far a model is from the dense one on some of the samples, by their numbers."""

STAGES = ((12, 2), (4, 6), (1, 16))
"""Children in a stage, and samples that each is judged on; in the last one the parent is too."""
_MOST_SWITCHES = 3  # layers that grow in one child


def generations(
    choices: Choices, start: Picks, most: int, judge: Judge, samples: int, seed: int
) -> Iterator[tuple[Picks, float]]:
    """Yield each generation's nearest model and how far it is, on those samples that it was judged on last.

    Args:
        choices: `worthwhile` ones of each layer.
        start: the first parent.
        most: that all layers may cost together.
        judge: of a model.
        samples: how many there are.
        seed: of what is random.
    """
    parent = start
    for number in count():
        random = generator(seed, f"generation {number}")
        rivals: list[Picks] = []
        for _ in range(STAGES[0][0]):
            child = mutated(choices, parent, most, random)
            if child != parent and child not in rivals:
                rivals.append(child)
        for place, (survivors, judged) in enumerate(STAGES):
            shown = sorted(map(int, random.permutation(samples)[:judged]))
            rivals = rivals[:survivors]  # the nearest of the stage before
            if place == len(STAGES) - 1:
                rivals = [parent, *rivals]
            distances = [judge(each, shown) for each in rivals]
            rivals = [rivals[each] for each in np.argsort(distances, kind="stable")]
        parent = rivals[0]
        yield parent, min(distances)


def mutated(choices: Choices, parent: Picks, most: int, random: np.random.Generator) -> Picks:
    """Return a copy in which a few layers have a size more, others less so that all cost no more than `most`.

    What that frees beyond need buys more again, of layers that didn't shrink.
    """
    child, names, larger = dict(parent), list(choices), set()
    for _ in range(random.integers(1, _MOST_SWITCHES + 1)):
        if growing := [name for name in names if child[name] + 1 < len(choices[name])]:
            larger.add(name := growing[random.integers(len(growing))])
            child[name] += 1
    while (free := most - spent(choices, child)) < 0:
        shrinking = [name for name in names if child[name] > 0 and name not in larger]
        if not shrinking:
            return parent
        child[shrinking[random.integers(len(shrinking))]] -= 1
    for number in random.permutation(len(names)):
        sizes, place = choices[names[number]], child[names[number]]
        while place >= parent[names[number]] and place + 1 < len(sizes):
            if (price := sizes[place + 1].cost - sizes[place].cost) > free:
                break
            free, place = free - price, place + 1
        child[names[number]] = place
    return child
