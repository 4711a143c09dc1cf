"""Ranks within a budget: what a level of a weight is and loses, what is bought first, what a search finds."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lost.config import Config, ProjectionSettings
from lost.errors import UserError
from lost.interop.from_hf.conversion import decomposed_config, equal_ranks
from lost.method.compress import UNWEIGHTED, Weighting, approximate, decompose_weighted, with_ridge
from lost.method.decompose import compose
from lost.method.levels import levels_of, possible_ranks
from lost.model.parameters import projections
from lost.planning.budget import budget
from lost.reshape.budget import Choice, Room, cost, greedy, resized, room, spent, worthwhile
from lost.reshape.divergence import divergence
from lost.reshape.search import generations, mutated

CONFIG = Config.model_validate(
    {
        "model": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "attention_bias": True,
        },
        "projection": {"kind": "dense"},
        "schedule": {"steps": 1},
    }
)


def weightings(out: int, inside: int) -> list[Weighting]:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((400, inside)) * np.linspace(3, 0.05, inside)
    moment, rows = inputs.T @ inputs / 400, np.exp(random.standard_normal(out))
    return [UNWEIGHTED, Weighting(moment), Weighting(moment, rows), Weighting(None, rows)]


@pytest.mark.parametrize("number", range(4))
def test_a_level_is_the_decomposition_of_its_rank_and_knows_its_error(number: int) -> None:
    weight, weighting = np.random.default_rng(1).standard_normal((40, 64)), weightings(40, 64)[number]
    levels = levels_of(weight, [8, 16, 24], 0.1, 8, weighting)
    for rank, level in levels.by_rank.items():
        recipe = ProjectionSettings(rank=rank, density=0.1, align=8, activation="none")
        expected = compose(approximate(weight, recipe, weighting), recipe.gamma)
        np.testing.assert_allclose(levels.weight(level), expected, atol=1e-4)
        lost, used = weight - expected, with_ridge(weighting)
        read = lost if used.moment is None else lost @ used.moment
        rows = np.ones(40) if used.rows is None else used.rows
        assert level.error == pytest.approx(float(rows @ (read * lost).sum(1)), rel=1e-6)
    assert levels.by_rank[8].error > levels.by_rank[24].error > 0


def test_rows_that_cost_more_are_fitted_better() -> None:
    weight, rows = np.random.default_rng(1).standard_normal((20, 30)), np.r_[np.full(10, 100.0), np.ones(10)]
    for weighting, better in ((UNWEIGHTED, False), (Weighting(None, rows), True)):
        factors = decompose_weighted(weight, weighting, 5, 0.05)
        basis, sparse = factors.up[:, :5], factors.up[:, 5:]
        lost = weight - basis @ factors.down
        lost[:, factors.channels] -= sparse
        tiny = decompose_weighted(weight, Weighting(weighting.moment, 1e-9 * rows), 5, 0.05)
        assert 0.2 < np.linalg.norm(tiny.down) / np.linalg.norm(tiny.up[:, :5]) < 5
        first, last = np.square(lost[:10]).sum(), np.square(lost[10:]).sum()
        assert (first < 0.5 * last) == better


@pytest.mark.parametrize("shape", [(256, 256), (688, 256), (64, 4096), (4096, 11008), (16, 32), (48, 48)])
def test_ranks_are_aligned_and_cheaper_than_the_matrix(shape: tuple[int, int]) -> None:
    ranks = possible_ranks(*shape, 0.03, 32)
    assert len(ranks) <= 32
    if shape == (16, 32):  # with 32 of 32 channels nothing is saved
        assert ranks == []
        return
    assert ranks == [ranks[0] * number for number in range(1, len(ranks) + 1)]
    assert ranks[0] % 8 == 0
    settings = CONFIG.projection.settings_for("any")
    for rank in (ranks[0], ranks[-1]):
        whole = type(projections(CONFIG)[0])("any", shape[1], shape[0], settings)
        assert resized(whole, rank, 0.03).parameters() < whole.parameters()


sizes = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=4
)


@settings(max_examples=60)
@given(layers=sizes, most=st.integers(4, 120))
def test_no_model_for_the_money_is_better_than_what_was_bought(
    layers: list[list[tuple[int, float]]], most: int
) -> None:
    """Up to the step that can't be afforded, as for a knapsack of divisible goods."""
    everything = {str(n): [Choice(n, *each) for n, each in enumerate(layer)] for n, layer in enumerate(layers)}
    choices = {name: worthwhile(each) for name, each in everything.items()}
    for name, each in choices.items():
        assert all(a.cost < b.cost and a.error > b.error for a, b in pairwise(each))
        assert all(any(a.cost <= b.cost and a.error <= b.error for a in each) for b in everything[name])
    limit = Room("parameters", 200, 10, most + 10)
    try:
        picks = greedy(choices, limit)
    except UserError:
        assert sum(min(each.cost for each in layer) for layer in everything.values()) > most
        return
    paid, lost = spent(choices, picks), sum(choices[name][place].error for name, place in picks.items())
    assert paid <= most
    models = [(sum(c.cost for c in m), sum(c.error for c in m)) for m in product(*everything.values())]
    largest_step = max(each[-1].cost - each[0].cost for each in choices.values())
    assert all(error >= lost - 1e-9 for cost, error in models if cost <= most - largest_step)


def test_what_is_left_buys_smaller_steps() -> None:
    choices = {"a": [Choice(8, 10, 9.0), Choice(16, 14, 8.5), Choice(None, 40, 0.0)], "b": [Choice(8, 10, 1.0)]}
    assert greedy(choices, Room("parameters", 100, 0, 26)) == {"a": 1, "b": 0}
    assert greedy(choices, Room("parameters", 100, 0, 50)) == {"a": 2, "b": 0}


def test_a_budget_that_is_too_small_names_the_nearest() -> None:
    choices = {"a": [Choice(8, 40, 1.0), Choice(None, 80, 0.0)], "b": [Choice(8, 22, 2.0)]}
    with pytest.raises(UserError, match=r"--budget 0\.09709: .* have 0\.3495 of the .*; expected 0\.350 or more"):
        greedy(choices, Room("parameters", 206, 10, 20))
    assert greedy(choices, Room("parameters", 206, 10, int(0.35 * 206))) == {"a": 0, "b": 0}


def test_a_budget_without_sizes_that_save_says_so() -> None:
    one = {"a": [Choice(None, 60, 0.0)], "b": [Choice(None, 40, 0.0)]}
    with pytest.raises(UserError, match="none of the projections takes fewer parameters"):
        greedy(one, Room("parameters", 200, 100, 199))


def test_a_share_that_rounds_to_all_of_the_model_is_less_than_all() -> None:
    limit = room(CONFIG, projections(CONFIG), np.nextafter(1, 0), "parameters")
    assert limit.most == limit.whole - 1


@pytest.mark.parametrize("of", ["parameters", "flops"])
def test_what_a_choice_costs_is_what_the_plan_counts(of: str) -> None:
    layers, ranks = projections(CONFIG), equal_ranks(CONFIG, 16)
    limit = room(CONFIG, layers, 0.5, of)
    counted = [budget(each) for each in (CONFIG, decomposed_config(CONFIG, ranks, 0.03))]
    whole, small = (each.parameters if of == "parameters" else each.flops_per_token for each in counted)
    assert (limit.whole, limit.most) == (whole, whole // 2)
    assert limit.fixed + sum(cost(resized(each, 16, 0.03), of) for each in layers) == small


def test_overrides_are_few_and_mean_the_ranks() -> None:
    names = [each.name for each in projections(CONFIG)]
    ranks: dict[str, int | None] = dict.fromkeys(names, 24)
    ranks |= {name: None for name in names if "down_proj" in name}
    ranks |= {name: 8 for name in names if "v_proj" in name}
    ranks |= {"model.layers.1.mlp.down_proj": 40, "model.layers.2.self_attn.v_proj": 24}
    found = decomposed_config(CONFIG, ranks, 0.1)
    assert found.projection.overrides == {
        "*.self_attn.v_proj": {"rank": 8},
        "*.mlp.down_proj": {"kind": "dense"},
        "model.layers.2.self_attn.v_proj": {"rank": 24},
        "model.layers.1.mlp.down_proj": {"rank": 40},
    }
    settings = {each.name: each.settings for each in projections(found)}
    assert {name: None if each.kind == "dense" else each.rank for name, each in settings.items()} == ranks


CHOICES = {str(n): [Choice(8 * (m + 1), 10 * (m + 1), 4.0 - m) for m in range(4)] for n in range(6)}


def test_children_cost_no_more_than_the_budget() -> None:
    parent = dict.fromkeys(CHOICES, 1)
    children = [mutated(CHOICES, parent, 125, np.random.default_rng(seed)) for seed in range(50)]
    assert all(spent(CHOICES, each) <= 125 and set(each.values()) <= {0, 1, 2, 3} for each in children)
    assert len({tuple(each.values()) for each in children}) > 10
    assert all(spent(CHOICES, each) == 120 for each in children)  # what is freed is spent again
    assert all(any(each[name] > 1 for name in each) for each in children if each != parent)


def test_a_search_finds_what_sums_of_errors_hide() -> None:
    """Layers 0 and 1 only help together; judged on few samples the judge is wrong at times."""

    def judge(picks: dict[str, int], samples: range) -> float:
        noise = np.random.default_rng(list(picks.values())).standard_normal(24)[list(samples)].mean()
        return 6.0 - 2 * min(picks["0"], picks["1"]) + 0.1 * picks["2"] + 0.05 * noise

    start = dict.fromkeys(CHOICES, 1)
    searches = [generations(CHOICES, start, 120, judge, 24, seed) for seed in (0, 0, 1)]
    found = [[next(each) for _ in range(12)] for each in searches]
    assert found[0] == found[1] != found[2]
    for each in found:
        last, distance = each[-1]
        assert (last["0"], last["1"]) == (3, 3)
        assert distance < judge(start, range(24)) - 3
        assert all(spent(CHOICES, picks) <= 120 for picks, _ in each)


def test_divergence_counts_what_is_left_out_as_one() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, 3, 5, 9))
    whole = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    exact = (np.exp(whole[0]) * (whole[0] - whole[1])).sum(-1).mean()
    assert divergence(whole[0], whole[1]) == pytest.approx(exact, abs=1e-6)
    part = divergence(whole[0][..., :4], whole[1][..., :4])
    assert 0 < part < exact
    assert divergence(whole[0][..., :4], whole[0][..., :4]) == 0
